"""Nothing is changed in silence: what `preprocess` does to a person's files is said, and stands in the manifest."""

from __future__ import annotations

import json
import shutil
import struct
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicldm.core.errors import MusicLDMError
from musicldm.media.audio import files, resampled
from musicldm.media.audio.decode import decode_whole, probe
from musicldm.media.audio.wav import wav_data
from musicldm.media.ledger import Finished, Task
from musicldm.media.manifest import MANIFEST, read_tracks
from tests.media.audio.sounds import Encode, Floats, Tone
from tests.toys import Command, Done

RATE = 16000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def preprocess(musicldm: Command, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, without processes of its own: starting them takes longer than all these little files."""
    monkeypatch.setattr("musicldm.media.preprocess.run_all", one_after_another)
    return lambda *options: musicldm("preprocess", source, tmp_path / "out", *options)


def one_after_another(
    work: Callable[[Task], Finished], tasks: list[Task], *limits: float
) -> Iterator[tuple[Task, Finished | Exception]]:
    for task in tasks:
        try:
            yield task, work(task)
        except MusicLDMError as error:
            yield task, error


def manifest(tmp_path: Path) -> dict[str, dict[str, Any]]:
    lines = (tmp_path / "out" / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {record["source"]: record for record in map(json.loads, lines)}


def heard(tmp_path: Path, name: str) -> Floats:
    return files.read(tmp_path / "out" / manifest(tmp_path)[name]["path"])


def summary(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


# ---- Level and channels ----------------------------------------------------------------------------------------------


def test_channels_that_cancel_each_other_are_no_silence(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    sound = tone(rate=RATE)
    encode(source / "against.wav", np.concatenate([sound, -sound]), RATE)
    offset = np.float32(0.2)  # which does not cancel, and is no sound
    encode(source / "offset.wav", np.concatenate([tone(500, rate=RATE), -tone(500, rate=RATE)]) + offset, RATE)
    encode(source / "alike.wav", np.concatenate([tone(600, rate=RATE), tone(600, rate=RATE)]), RATE)
    encode(source / "apart.wav", np.concatenate([tone(300, rate=RATE), tone(900, rate=RATE)]), RATE)
    done = preprocess("--json", "--bit-depth", 24)
    assert summary(done)["cancelled"] == ["against.wav", "offset.wav"]
    assert "2 files were taken from one channel" in done.err and "against.wav, offset.wav" in done.err
    np.testing.assert_allclose(heard(tmp_path, "against.wav"), sound, atol=1e-5)
    records = manifest(tmp_path)
    assert {name: record["original"]["cancelled"] for name, record in records.items()} == {
        "against.wav": True,
        "offset.wav": True,
        "alike.wav": False,
        "apart.wav": False,
    }


def test_the_louder_channel_stands_for_those_that_cancel(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    """In every command that mixes: the function is one."""
    sound = tone(rate=RATE)
    path = encode(tmp_path / "a.wav", np.concatenate([0.9 * sound, -sound]), RATE)
    audio, cancelled = decode_whole(path, RATE, 1)
    assert cancelled
    np.testing.assert_allclose(audio, -sound, atol=1e-5)
    back = np.concatenate([sound, sound, 0 * sound, 0 * sound, -sound, sound])  # FL FR FC LFE BL BR
    audio, cancelled = decode_whole(encode(tmp_path / "b.flac", back, RATE), RATE, 2)
    assert cancelled
    np.testing.assert_allclose(audio[0], sound[0], atol=1e-5)  # on the left they cancel …
    np.testing.assert_allclose(audio[1], sound[0] / 2, atol=1e-5)  # … and on the right they are mixed


def test_a_stereo_waveform_that_would_cancel_in_mono_says_so(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    """For `train-vae --resample`, which mixes it crop by crop."""
    sound = tone(rate=RATE)
    encode(source / "a.wav", np.concatenate([sound, -0.9 * sound]), RATE)
    encode(source / "b.wav", np.concatenate([sound, 0 * sound]), RATE)
    assert preprocess("--channels", 2).code == 0
    cancelled, other = resampled.fit(read_tracks(tmp_path / "out"), RATE, 1)
    np.testing.assert_allclose(cancelled.read(0, RATE), sound, atol=1e-4)
    np.testing.assert_allclose(other.read(0, RATE), sound / 2, atol=1e-4)


@pytest.mark.parametrize("bit_depth", [8, 16, 24])
def test_a_peak_beyond_full_scale_lowers_the_whole_and_clips_nothing(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode, bit_depth: int
) -> None:
    sound = tone(volume=3.0, rate=RATE)
    encode(source / "loud.wav", sound, RATE, subtype="FLOAT")
    encode(source / "soft.wav", tone(500, volume=0.999, rate=RATE), RATE, subtype="FLOAT")
    done = preprocess("--json", "--bit-depth", bit_depth)
    lowered = summary(done)["lowered"]
    assert list(lowered) == ["loud.wav"] and lowered["loud.wav"] == pytest.approx(20 * np.log10(3), abs=0.2)
    assert (
        "1 file was lowered as a whole" in done.err and f"by up to {lowered['loud.wav']:.2f} dB (loud.wav)" in done.err
    )
    record = manifest(tmp_path)["loud.wav"]
    assert record["clipped"] == 0 and record["gain"] == -record["lowered"] == -lowered["loud.wav"]
    wanted = sound * 10 ** (record["gain"] / 20)  # to a hundredth of a dB
    np.testing.assert_allclose(heard(tmp_path, "loud.wav"), wanted, atol=1.2e-3 + 4 / 2**bit_depth)


def test_the_level_is_kept_with_clip(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / "loud.wav", tone(volume=3.0, rate=RATE), RATE, subtype="FLOAT")
    assert summary(preprocess("--json"))["prepared"] == 1
    lowered = manifest(tmp_path)["loud.wav"]
    again = summary(preprocess("--json", "--clip"))
    assert again["prepared"] == 1 and again["lowered"] == {}
    clipped = manifest(tmp_path)["loud.wav"]
    assert clipped["clipped"] > 0.5 and clipped["gain"] == 0
    assert clipped["content"] != lowered["content"]  # another sound is another content, in a latent store too


def test_a_conversion_is_told_once_for_all(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    for number in range(3):
        encode(source / f"{number}.flac", np.concatenate([tone(300 + number), tone(400)]))
    encode(source / "same.wav", tone(900, rate=RATE), RATE)
    done = preprocess("--json", "--quiet")
    assert summary(done)["converted"] == {"44100 Hz, 2 channels": 3}
    assert done.err.count("converted to 16000 Hz, 1 channel: 3 from 44100 Hz, 2 channels.") == 1
    original = manifest(tmp_path)["0.flac"]["original"]
    assert (original["sample_rate"], original["channels"], original["codec"]) == (44100, 2, "flac")


def test_what_was_trimmed_stands_in_the_manifest(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    quiet = np.zeros((1, RATE), np.float32)
    encode(
        source / "a.wav", np.concatenate([quiet, tone(rate=RATE), quiet, tone(rate=RATE), quiet, quiet], axis=1), RATE
    )
    done = preprocess("--json", "--trim-silence")
    assert summary(done)["trimmed_seconds"] == pytest.approx(3, abs=0.05) and "Silence trimmed: 3.0 s" in done.err
    assert manifest(tmp_path)["a.wav"]["trimmed"] == pytest.approx({"start": 1.0, "middle": 0.0, "end": 2.0}, abs=0.02)


# ---- Headers ---------------------------------------------------------------------------------------------------------


def wav(tone: Tone, stated: float, trailer: bytes = b"", wide: bool = False) -> bytes:
    """Four seconds of 16-bit mono under a header that states so much of them."""
    data: bytes = (tone(seconds=4, rate=RATE)[0] * 32767).astype("<i2").tobytes()
    size = int(len(data) * stated)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    if wide:
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, 80 + size, size, size // 2, 0)
        return b"RF64\xff\xff\xff\xffWAVE" + ds64 + form + b"data\xff\xff\xff\xff" + data + trailer
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form + b"data" + struct.pack("<I", size) + data + trailer


@pytest.mark.parametrize("wide", [False, True])
def test_a_wav_that_holds_more_than_its_header_states_is_taken_whole(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, wide: bool
) -> None:
    (source / "half.wav").write_bytes(wav(tone, 0.5, wide=wide))
    done = preprocess("--json")
    assert summary(done)["beyond_header"] == {"half.wav": pytest.approx(2.0)}
    assert "taken whole, though the header states less sound than there is: half.wav." in done.err
    assert heard(tmp_path, "half.wav").shape == (1, 4 * RATE)
    assert manifest(tmp_path)["half.wav"]["original"]["beyond_header"] == pytest.approx(2.0)


@pytest.mark.parametrize("wide", [False, True])
def test_a_wav_that_holds_less_is_refused(preprocess: Command, source: Path, tone: Tone, wide: bool) -> None:
    (source / "cut.wav").write_bytes(wav(tone, 1.0, wide=wide)[:-RATE])
    (source / "whole.wav").write_bytes(wav(tone, 1.0, wide=wide))
    assert summary(preprocess("--json"))["failed"] == {"cut.wav": "It is truncated: 88% of its samples are there."}


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        b"LIST" + struct.pack("<I", 40000) + b"x" * 40000,
        b"ID3\x03" + b"\x01" * 40000,
        b"TAG" + b"y" * 125,
        bytes(40000),
        b"\x01" * 1000,  # too short to be lost sound
    ],
    ids=["nothing", "chunk", "id3", "id3v1", "zeros", "crumbs"],
)
def test_what_follows_the_sound_is_no_sound(tmp_path: Path, tone: Tone, trailer: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(wav(tone, 1.0, trailer))
    data = wav_data(tmp_path / "a.wav")
    assert data is not None and data.beyond == 0 and data.fraction == 1
    assert probe(tmp_path / "a.wav").beyond_header == 0
    assert decode_whole(tmp_path / "a.wav", RATE, 1)[0].shape == (1, 4 * RATE)


# ---- Artists ---------------------------------------------------------------------------------------------------------


def test_artists_are_counted_and_a_guess_is_a_warning(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / "Ann" / "2004 - Album" / "CD1" / "a.wav", tone(300, rate=RATE), RATE)
    encode(source / "Ann" / "b.mp3", tone(400), artist="ZOË")
    encode(source / "c.mp3", tone(500), artist=unicodedata.normalize("NFD", "Zoë"))
    encode(source / "d.mp3", tone(600), artist="Zoë")
    encode(source / "e.mp3", tone(700), artist="Zoë")
    encode(source / "f.wav", tone(800, rate=RATE), RATE)
    found = summary(done := preprocess("--json"))
    assert found["artists"] == {"Zoë": 4, "Ann": 1, "": 1}
    assert found["artists_from"] == {"folder": 1, "tag": 4, "nobody": 1}
    assert "Artists: 2: Zoë (4), Ann (1); without an artist: 1." in done.err
    assert "Artists guessed from folder names: 1 of 6 tracks; without an artist: 1." in done.err
    assert {track.artist for track in read_tracks(tmp_path / "out")} == {"Zoë", "Ann", ""}


def test_another_rule_gives_other_artists_to_what_is_done(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / "Pop" / "Ann" / "a.mp3", tone(300), artist="Tagged")
    encode(source / "Pop" / "Ann" / "b.wav", tone(400, rate=RATE), RATE)
    assert summary(preprocess("--json"))["artists"] == {"Ann": 1, "Tagged": 1}
    for rule, artists in (
        ("folder:1", {"Pop": 2}),
        ("tag", {"Tagged": 1, "": 1}),
        ("Joe Doe", {"Joe Doe": 2}),
        ("", {"Ann": 1, "Tagged": 1}),
    ):
        found = summary(done := preprocess("--json", "--artist-from", rule))
        assert found["artists"] == artists and found["prepared"] == 0, rule
        assert "Tracks of earlier runs that have another artist now:" in done.err
    assert summary(preprocess("--json"))["relabelled"] == 0
    assert preprocess("--artist-from", "folder:x").code == 2


def test_a_manifest_of_an_earlier_release_gets_better_artists(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / "Ann" / "CD1" / "a.wav", tone(300, rate=RATE), RATE)
    encode(source / "b.mp3", tone(400), artist="Tagged")
    assert preprocess().code == 0
    former = []
    for record, artist in zip(manifest(tmp_path).values(), ("CD1", "Tagged"), strict=True):
        for key in ("artist_from", "tagged", "original", "trimmed", "lowered", "take"):
            del record[key]
        former.append(record | {"artist": artist})
    (tmp_path / "out" / MANIFEST).write_text("".join(json.dumps(record) + "\n" for record in former))
    found = summary(preprocess("--json"))
    assert (found["artists"], found["relabelled"], found["prepared"]) == ({"Ann": 1, "Tagged": 1}, 1, 0)


def test_the_catalog_knows_a_file_whose_name_the_disk_has_decomposed(
    preprocess: Command, source: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / unicodedata.normalize("NFD", "Zoë") / "é.wav", tone(rate=RATE), RATE)
    place = unicodedata.normalize("NFC", "Zoë/é.wav")
    record = {"recording": "1", "status": "fetched", "path": place, "artist": "By the crawl", "title": "Song"}
    (source / "catalog.jsonl").write_text(json.dumps(record) + "\n")
    assert summary(preprocess("--json"))["artists"] == {"By the crawl": 1}


def test_what_an_earlier_release_may_have_spoilt_is_made_again(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    for number, name in enumerate(("clipped", "cancelled", "fine")):
        encode(source / f"{name}.wav", tone(300 + 100 * number, rate=RATE), RATE)
    assert preprocess().code == 0
    changes = {"clipped.wav": {"clipped": 0.01}, "cancelled.wav": {"peak": 2e-5}, "fine.wav": {}}
    former = [record | changes[name] for name, record in manifest(tmp_path).items()]
    for record in former:
        del record["original"]
    (tmp_path / "out" / MANIFEST).write_text("".join(json.dumps(record) + "\n" for record in former))
    found = summary(preprocess("--json"))
    assert (found["prepared"], found["skipped"], found["tracks"]) == (2, 1, 3)
    assert summary(preprocess("--json"))["prepared"] == 0


# ---- Takes -----------------------------------------------------------------------------------------------------------

RECIPE = json.dumps({"musicldm": "0.2", "model": {"name": "m", "hash": "0"}, "take": 1, "of": 1, "options": {}})


def take(path: Path, sound: Floats, comment: str = RECIPE) -> Path:
    with files.piecewise(path, RATE, 1, sound.shape[1], comment=comment) as append:
        append(sound)
    return path


def test_ones_own_takes_are_left_out_unless_asked_for(
    preprocess: Command, source: Path, tmp_path: Path, tone: Tone, encode: Encode
) -> None:
    encode(source / "song.wav", tone(300, rate=RATE), RATE)
    for number, name in enumerate(("take.wav", "take.flac", "take.mp3")):
        take(source / name, tone(400 + 50 * number, rate=RATE))
    take(source / "mine.flac", tone(700, rate=RATE), comment='{"mine": 1}')
    encode(source / "bare.wav", tone(800, rate=RATE), RATE)  # its metadata is gone, its recipe lies beside it
    (source / "bare.json").write_text(RECIPE)
    takes = ["bare.wav", "take.flac", "take.mp3", "take.wav"]
    found = summary(done := preprocess("--json"))
    assert sorted(found["takes"]) == takes and found["failed"] == {} and found["tracks"] == 2
    assert "4 files were left out as takes that musicldm sample made" in done.err and "--include-takes" in done.err
    assert preprocess("--strict").code == 1
    found = summary(preprocess("--json", "--include-takes"))
    assert found["takes"] == [] and (found["prepared"], found["tracks"]) == (4, 6)
    assert {name for name, record in manifest(tmp_path).items() if record["take"]} == set(takes)
    assert summary(preprocess("--json"))["tracks"] == len(list((tmp_path / "out").glob("*.wav"))) == 2
    for name in ("song.wav", "mine.flac"):
        (source / name).unlink()
    shutil.rmtree(tmp_path / "out")
    done = preprocess()
    assert done.code == 1 and "4 are takes of musicldm sample" in done.err
