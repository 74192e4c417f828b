"""Notes from end to end, by the commands: preprocess, both trainings, encode, and every task of sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from musicldm.media.manifest import read_tracks
from musicldm.media.notes.midi import comment_of, read_midi, write_midi
from musicldm.media.notes.score import Score
from tests.media.notes.midis import chunk, midi, note
from tests.toy_notes import compose, tune
from tests.toys import Command

TOY_ROLL = """
codec = "roll"
[model]
latent_channels = 12
step_width = 24
width = 48
blocks = 1
[training]
steps = 300
batch_size = 8
seconds = 16.0
learning_rate = 1e-2
warmup = 20
ema = 0.95
validate_every = 150
demo_every = 300
validation_crops = 8
"""

TOY_GENERATOR = """
[model.unet]
widths = [32, 48]
blocks = 1
[training]
steps = 40
batch_size = 8
seconds = 16.0
learning_rate = 3e-3
warmup = 5
ema = 0.9
validate_every = 20
demo_every = 40
validation_crops = 4
"""


@dataclass(frozen=True)
class Notes:
    """The folders that a run left."""

    midis: Path
    data: Path
    codec: Path
    store: Path
    model: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Notes:
    root = tmp_path_factory.mktemp("notes")
    compose(root / "midis")
    (root / "roll.toml").write_text(TOY_ROLL)
    (root / "ldm.toml").write_text(TOY_GENERATOR)
    return Notes(root / "midis", root / "data", root / "roll", root / "latents.zarr", root / "ldm")


@pytest.fixture
def notes(made: Notes, musicldm: Command) -> Notes:
    """The whole run, made by the first test that asks for it."""
    root = made.data.parent
    lines: list[tuple[Path, list[object]]] = [
        (made.data, ["preprocess", made.midis, made.data]),
        (made.codec, ["train-vae", made.data, "-o", made.codec, "--config", root / "roll.toml"]),
        (made.store, ["encode", made.data, made.store, "--vae", made.codec]),
        (made.model, ["train-diffusion", made.store, "-o", made.model, "--config", root / "ldm.toml"]),
    ]
    for place, line in lines:
        if not place.exists():
            done = musicldm(*line, "--json")
            assert done.code == 0, done.err
            json.loads(done.out)
    return made


def score_of(path: Path) -> Score:
    return read_midi(path)[0]


def test_what_preprocess_leaves(notes: Notes) -> None:
    tracks = read_tracks(notes.data, "notes")
    assert len(tracks) == 10 and {track.artist for track in tracks} == {"Anna", "Bert"}
    assert {track.split for track in tracks} == {"train", "heldout"}
    track = tracks[0]
    assert (track.medium, track.rate, track.channels, track.length) == ("notes", 24, 268, 12 * 96)
    assert track.seconds == pytest.approx(12 * 4 * 0.55)
    assert track.read(0, 100).shape == (268, 100)


def test_the_codec_learns(notes: Notes, musicldm: Command) -> None:
    figures = json.loads(musicldm("evaluate", "vae", notes.codec, notes.data, "--json").out)
    assert figures["onset_f1"] > 0.6 and figures["hold_f1"] > 0.8 and figures["pedal_f1"] > 0.9
    assert figures["notes"] > 0 and 0 < figures["numbers_a_second"] < 100
    demos = notes.codec / "demos" / "step-300"
    assert (demos / "1-original-roll.png").is_file() and (demos / "1-reconstruction.wav").is_file()


def test_reconstruct(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    source, out = notes.midis / "Anna" / "tune 1.mid", tmp_path / "out.mid"
    done = musicldm("reconstruct", source, out, "--vae", notes.codec, "--json")
    assert done.code == 0 and json.loads(done.out)["onset_f1"] > 0.6
    assert score_of(out).length == score_of(source).length
    assert musicldm("reconstruct", source, out, "--vae", notes.codec).code == 0  # ours, and so replaced
    (tmp_path / "mine.mid").write_bytes(source.read_bytes())
    assert musicldm("reconstruct", source, tmp_path / "mine.mid", "--vae", notes.codec).code == 1
    assert musicldm("reconstruct", source, tmp_path / "out.wav", "--vae", notes.codec).code == 2
    assert "of audio" in musicldm("reconstruct", source, tmp_path / "x.mid", "--vae", "piano").err


def test_a_store_of_notes(notes: Notes, musicldm: Command) -> None:
    info = json.loads(musicldm("latents", "info", notes.store, "--json").out)
    assert (info["medium"], info["beats"], info["hours"]) == ("notes", 480, None)
    assert "480 beats" in musicldm("latents", "info", notes.store).out
    assert musicldm("latents", "verify", notes.store).code == 0
    again = json.loads(musicldm("encode", notes.data, notes.store, "--vae", notes.codec, "--json").out)
    assert (again["encoded"], again["skipped"], again["beats"]) == (0, 10, 480)


def test_doctor_speaks_of_beats(notes: Notes, musicldm: Command) -> None:
    done = musicldm("doctor", notes.data, notes.store, notes.codec, notes.model)
    assert "480 beats" in done.out + done.err and "wrong" not in (done.out + done.err).split("0 wrong")[0]


def test_new_music(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    out = tmp_path / "new.mid"
    done = musicldm("sample", "-m", notes.model, "--bars", 6, "--artist", "Anna", "-o", out, "--steps", 4, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["files"] == [str(out)]
    score = score_of(out)
    assert score.length == 6 * 96 and score.resolution == 24
    assert json.loads(comment_of(out))["take"] == 1 and (tmp_path / "new.mid.json").is_file()


def test_the_same_seed_gives_the_same_notes_and_replay_makes_them_again(
    notes: Notes, musicldm: Command, tmp_path: Path
) -> None:
    for name in ("a.mid", "b.mid"):
        musicldm("sample", "-m", notes.model, "--bars", 4, "-o", tmp_path / name, "--steps", 4, "--seed", 7)
    musicldm("sample", "-m", notes.model, "--replay", tmp_path / "a.mid", "-o", tmp_path / "c.mid")
    (tmp_path / "a.mid.json").unlink()
    musicldm("sample", "-m", notes.model, "--replay", tmp_path / "b.mid.json", "-o", tmp_path / "d.mid")
    assert score_of(tmp_path / "a.mid") == score_of(tmp_path / "b.mid") == score_of(tmp_path / "c.mid")
    assert score_of(tmp_path / "d.mid") == score_of(tmp_path / "a.mid")


def test_tempo_metre_and_seconds(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    line = ["sample", "-m", notes.model, "--steps", 4, "-o", tmp_path / "x.mid"]
    assert musicldm(*line, "--seconds", 8, "--tempo", 90, "--meter", "3/4").code == 0
    score = score_of(tmp_path / "x.mid")
    assert score.length == 12 * 24 and score.duration == pytest.approx(8, rel=1e-2)
    assert score.metres.tolist() == [[0, 3, 4]]
    assert musicldm(*line, "--bars", 2, "--meter", "6/8").code == 0
    assert score_of(tmp_path / "x.mid").length == 6 * 24
    assert musicldm(*line, "--bars", 2, "--meter", "3/5").code == 2
    assert musicldm(*line, "--bars", 2, "--seconds", 3).code == 2


def test_it_is_played_into_an_audio_file_and_the_notes_stay_beside_it(
    notes: Notes, musicldm: Command, tmp_path: Path
) -> None:
    from musicldm.media.audio.decode import probe

    done = musicldm(
        "sample", "-m", notes.model, "--bars", 2, "-o", tmp_path / "x.wav", "--steps", 4, "--picture", "--json"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["files"] == [str(tmp_path / "x.wav"), str(tmp_path / "x.mid")]
    info = probe(tmp_path / "x.wav")
    assert (info.sample_rate, info.channels) == (44100, 2) and info.seconds is not None
    assert info.seconds >= score_of(tmp_path / "x.mid").duration
    assert {"x.png", "x.wav.json", "x.mid.json"} <= {path.name for path in tmp_path.iterdir()}
    # All of it is ours, and may be made anew.
    again = ["sample", "-m", notes.model, "--bars", 3, "-o", tmp_path / "x.wav", "--steps", 4, "--picture"]
    assert musicldm(*again).code == 0
    (tmp_path / "x.mid").write_bytes(write_midi(tune(5)))
    assert musicldm(*again).code == 1 and score_of(tmp_path / "x.mid") == tune(5)


def test_infill_keeps_all_else(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    source = notes.midis / "Anna" / "tune 1.mid"
    done = musicldm(
        *("sample", "-m", notes.model, "--infill", source, "--from", "5b", "--to", "7b"),
        *("-o", tmp_path / "x.mid", "--steps", 4, "--repaint", 2),
    )
    assert done.code == 0, done.err
    before, after = score_of(source), score_of(tmp_path / "x.mid")
    assert after.length == before.length and after.title == before.title
    for first, last in ((0, 4 * 96), (6 * 96, 12 * 96)):
        assert after.cut(first, last).tracks == before.cut(first, last).tracks
        assert np.array_equal(after.cut(first, last).tempos, before.cut(first, last).tempos)


def test_infill_by_seconds(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    source = notes.midis / "Anna" / "tune 1.mid"
    line = ["sample", "-m", notes.model, "--infill", source, "-o", tmp_path / "x.mid", "--steps", 4]
    assert musicldm(*line, "--from", 2, "--to", 6).code == 0
    before, after = score_of(source), score_of(tmp_path / "x.mid")
    assert after.cut(0, 96).tracks == before.cut(0, 96).tracks
    assert after.cut(288, 1152).tracks == before.cut(288, 1152).tracks
    for first, last in (("13b", "14b"), ("5b", "5b"), ("0b", "2b"), ("nan", "3"), ("x", "3"), ("-1", "2")):
        assert musicldm(*line, f"--from={first}", f"--to={last}").code == 2


def test_extend_vary_loop_and_interpolate(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    a, b = notes.midis / "Anna" / "tune 1.mid", notes.midis / "Bert" / "tune 2.mid"
    sample = ["sample", "-m", notes.model, "--steps", 4, "-o", tmp_path / "x.mid"]
    assert musicldm(*sample, "--extend", a, "--bars", 2).code == 0
    before, after = score_of(a), score_of(tmp_path / "x.mid")
    assert after.length == before.length + 192 and after.cut(0, before.length).tracks == before.tracks
    assert musicldm(*sample, "--vary", a, "--strength", 0.3).code == 0
    assert score_of(tmp_path / "x.mid").length == before.length
    assert musicldm(*sample, "--loop", "--bars", 4).code == 0
    assert score_of(tmp_path / "x.mid").length == 4 * 96
    assert musicldm(*sample, "--interpolate", a, b, "-n", 2).code == 0
    assert (tmp_path / "x-1.mid").is_file() and (tmp_path / "x-2.mid").is_file()
    assert musicldm(*sample, "--interpolate-seeds", 1, 2, "-n", 2, "--bars", 2).code == 0


def test_samples_are_measured_beside_baselines(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    (tmp_path / "takes").mkdir()
    for number in range(3):  # music of the same kind, and a copy in another key
        write_midi(tune(50 + number), tmp_path / "takes" / f"{number}.mid")
    train = [track for track in read_tracks(notes.data, "notes") if track.split == "train"]
    write_midi(score_of(train[0].path).transposed(3), tmp_path / "takes" / "copy.mid")
    (tmp_path / "takes" / "bad.mid").write_bytes(b"MThd")
    done = musicldm("evaluate", "samples", tmp_path / "takes", "--reference", notes.data, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    sets = found["sets"]
    assert list(sets) == [
        "samples",
        "held-out music",
        "shuffled bars",
        "shuffled notes",
        "random notes",
        "Markov chain",
    ]
    assert len(found["left_out"]) == 1
    for feature in ("durations", "scale_consistency"):
        assert sets["samples"]["distances"][feature] < sets["random notes"]["distances"][feature]
    lengths = {
        Path(name).name: each["length"]
        for name, each in zip(found["samples"], sets["samples"]["passages"], strict=True)
    }
    assert lengths["copy.mid"] > 2 * max(length for name, length in lengths.items() if name != "copy.mid")
    assert (
        sets["samples"]["passages"][found["samples"].index(str(tmp_path / "takes" / "copy.mid"))]["transposition"] == 3
    )
    assert "random notes" in musicldm("evaluate", "samples", tmp_path / "takes", "--reference", notes.data).err
    assert musicldm("evaluate", "samples", tmp_path / "takes" / "0.mid").code == 2


def test_the_other_medium_is_refused(notes: Notes, musicldm: Command, tmp_path: Path, songs: Path) -> None:
    song = next(songs.rglob("*.wav"), None) or next(path for path in songs.rglob("*") if path.is_file())
    tune_1 = notes.midis / "Anna" / "tune 1.mid"
    assert "cannot be used" in musicldm("sample", "-m", notes.model, "--vary", song, "-o", tmp_path / "x.mid").err
    assert "cannot be used" in musicldm("sample", "-m", "piano", "--vary", tune_1, "-o", tmp_path / "x.wav").err
    for line in (["--bars", "4"], ["-o", str(tmp_path / "x.mid")], ["--tempo", "90"], ["--picture"]):
        assert musicldm("sample", "-m", "piano", "--steps", 1, *line).code == 2
    done = musicldm("encode", notes.data, tmp_path / "l.zarr", "--vae", "piano")
    assert done.code == 1 and "holds notes only" in done.err and not (tmp_path / "l.zarr").exists()
    done = musicldm("train-vae", notes.data, "-o", tmp_path / "run", "--preset", "tiny")
    assert done.code == 1 and "holds notes only" in done.err


def test_a_take_is_not_taken_for_music_to_train_on(notes: Notes, musicldm: Command, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    musicldm("sample", "-m", notes.model, "--bars", 4, "-o", tmp_path / "in" / "take.mid", "--steps", 4)
    (tmp_path / "in" / "take.mid.json").unlink()
    write_midi(tune(0), tmp_path / "in" / "tune.mid")
    summary = json.loads(musicldm("preprocess", tmp_path / "in", tmp_path / "out", "--json").out)
    assert (summary["tracks"], summary["takes"]) == (1, ["take.mid"])


# ---- preprocess ------------------------------------------------------------------------------------------------------


def test_a_folder_of_both(musicldm: Command, tmp_path: Path, songs: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    song = next(path for path in sorted(songs.rglob("*")) if path.is_file())
    (source / f"a{song.suffix}").write_bytes(song.read_bytes())
    write_midi(tune(0), source / "a.mid")
    write_midi(tune(0), source / "copy.wav")  # by content, and a duplicate
    summary = json.loads(musicldm("preprocess", source, out, "--json").out)
    assert (summary["tracks"], summary["scores"], summary["prepared"]) == (2, 1, 2)
    assert summary["duplicates"] == {"copy.wav": "a.mid"} and summary["notes"] == tune(0).notes
    assert [track.path.name for track in read_tracks(out, "audio")] == ["a.wav"]
    assert [track.path.name for track in read_tracks(out, "notes")] == ["a.mid"]
    again = json.loads(musicldm("preprocess", source, out, "--json").out)
    assert (again["prepared"], again["skipped"]) == (0, 3)


def test_bad_files_are_named_and_the_rest_goes_on(musicldm: Command, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    good = write_midi(tune(0))
    for name, data in {
        "good.mid": good,
        "wrapped.mid": b"RIFF"
        + (len(good) + 12).to_bytes(4, "little")
        + b"RMIDdata"
        + len(good).to_bytes(4, "little")
        + good,
        "cut.mid": good[:200],
        "smpte.mid": midi(chunk(*note()), division=0xE728),
        "type 2.mid": midi(chunk(*note()), chunk(*note()), kind=2),
        "no ticks.mid": midi(chunk(*note()), division=0),
        "empty.mid": midi(chunk()),
        "junk.mid": b"MThd" + bytes(range(100)),
    }.items():
        (source / name).write_bytes(data)
    done = musicldm("preprocess", source, tmp_path / "out", "--json", "--strict")
    summary = json.loads(done.out)
    assert done.code == 1 and summary["tracks"] == 1 and summary["duplicates"] == {"wrapped.mid": "good.mid"}
    assert sorted(summary["failed"]) == sorted(
        ["cut.mid", "smpte.mid", "type 2.mid", "no ticks.mid", "empty.mid", "junk.mid"]
    )
    assert all(len(reason) > 10 for reason in summary["failed"].values())


def test_what_is_off_the_grid_is_said(musicldm: Command, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "off.mid").write_bytes(midi(chunk((3, note()[0][1]), (480, note()[1][1]), *note(62))))
    summary = json.loads(musicldm("preprocess", source, tmp_path / "out", "--json").out)
    assert summary["onsets_exact"] == 0.0 and summary["merged"] == 0
    assert "0.0% of the notes" in musicldm("preprocess", source, tmp_path / "other").err


def test_a_file_that_was_changed_since_is_refused(notes: Notes, tmp_path: Path, musicldm: Command) -> None:
    compose(tmp_path / "in", 3)
    assert musicldm("preprocess", tmp_path / "in", tmp_path / "out").code == 0
    track = read_tracks(tmp_path / "out", "notes")[0]
    write_midi(tune(9, 4), track.path)
    with pytest.raises(Exception, match="was changed since it was prepared"):
        track.read(0, 24)
    done = musicldm("encode", tmp_path / "out", tmp_path / "l.zarr", "--vae", notes.codec, "--json")
    assert len(json.loads(done.out)["left_out"]) == 1
