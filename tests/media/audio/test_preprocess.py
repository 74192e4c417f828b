from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musicldm.core.errors import DataError, OutputError, UsageError
from musicldm.media.audio.prepare import PrepareSettings
from musicldm.media.manifest import MANIFEST, PreparedTrack, read_tracks
from musicldm.media.preprocess import preprocess
from tests.media.audio.sounds import Cut, Encode, Tone


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every WAV's bytes, by its path below the folder."""
    files = (path for path in sorted(folder.rglob("*.wav")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def last_lines(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {record["source"]: record for record in map(json.loads, lines)}


@pytest.fixture
def source(tmp_path: Path, tone: Tone, encode: Encode) -> Path:
    """Three good files in nested folders with odd names."""
    root = tmp_path / "in"
    encode(root / "Élan Vital" / "first, & best\n.mp3", tone(300, 1.0), artist="Tagged", title="By its tag")
    encode(root / "B-side" / "deep" / "-rf.m4a", tone(400, 1.2))
    encode(root / "'quoted' \U0001f3b5.flac", np.concatenate([tone(500), tone(600)]))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# ---- What comes out


def test_a_mirrored_tree_of_waveforms_of_one_kind(source: Path, out: Path) -> None:
    summary = preprocess(source, out, PrepareSettings())
    assert (summary.files, summary.prepared, summary.skipped, summary.failed) == (3, 3, 0, {})
    assert list(snapshot(out)) == ["'quoted' \U0001f3b5.wav", "B-side/deep/-rf.wav", "Élan Vital/first, & best_.wav"]
    for path in out.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert summary.hours == pytest.approx(3.2 / 3600, rel=0.05)


def test_tracks_read_back_as_the_manifest_tells(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings(sample_rate=22050, bit_depth=24, channels=2))
    tracks = read_tracks(out)
    assert [track.path for track in tracks] == sorted(out.resolve().rglob("*.wav"))
    for track in tracks:
        info = soundfile.info(track.path)
        assert (track.rate, track.channels, track.length) == (22050, 2, info.frames)
        assert track.seconds == pytest.approx(info.duration)
        assert info.subtype == "PCM_24"


def test_artist_and_title_from_the_tags_or_from_the_place(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    names = {(track.artist, track.title) for track in read_tracks(out)}
    assert names == {("Tagged", "By its tag"), ("deep", "-rf"), ("", "'quoted' \U0001f3b5")}


def test_the_crawl_knows_best(source: Path, out: Path) -> None:
    record = {"recording": "id", "status": "fetched", "path": "B-side/deep/-rf.m4a", "artist": "Ann", "title": "Song"}
    catalog = source / "catalog.jsonl"
    catalog.write_text(
        json.dumps(record | {"provenance": {"licence": "CC BY"}}) + '\n{"recording": "other", "status": "failed"}\n'
    )
    preprocess(source, out, PrepareSettings())
    [track] = [track for track in read_tracks(out) if track.artist == "Ann"]
    assert (track.title, track.provenance) == ("Song", {"licence": "CC BY"})


def test_sources_that_differ_in_suffix_only_do_not_collide(
    tmp_path: Path, out: Path, tone: Tone, encode: Encode
) -> None:
    for hertz, suffix in ((300, "wav"), (400, "flac"), (500, "mp3")):
        encode(tmp_path / "in" / f"a.{suffix}", tone(hertz))
    preprocess(tmp_path / "in", out, PrepareSettings())
    assert list(snapshot(out)) == ["a.mp3.wav", "a.wav", "a.wav.wav"]
    before = snapshot(out)
    encode(tmp_path / "in" / "a.aiff", tone(600))  # sorts first, and yet takes no other's place
    assert preprocess(tmp_path / "in", out, PrepareSettings()).prepared == 1
    assert before.items() < snapshot(out).items()


def test_names_that_are_not_utf8(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    encode(tmp_path / "in" / "a.wav", tone())
    os.rename(tmp_path / "in" / "a.wav", os.fsencode(tmp_path / "in") + b"/caf\xe9.wav")
    preprocess(tmp_path / "in", out, PrepareSettings())
    assert list(last_lines(out)) == ["caf\\xe9.wav"]
    encode(tmp_path / "in" / "caf\\xe9.wav", tone(500))  # by letters what the other is by its bytes
    assert preprocess(tmp_path / "in", out, PrepareSettings()).tracks == 2
    named = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.rename(tmp_path / "in", named)
    assert preprocess(Path(named), tmp_path / "other", PrepareSettings()).tracks == 2


def test_links_in_a_circle_and_the_output_inside_the_input(source: Path) -> None:
    (source / "B-side" / "loop").symlink_to(source)
    (source / "again").symlink_to(source / "B-side")
    out = source / "out"
    for _ in range(2):
        assert preprocess(source, out, PrepareSettings()).files == 3


# ---- Dither


def test_dither_keeps_what_is_smaller_than_a_step(tmp_path: Path, out: Path, encode: Encode) -> None:
    quiet = np.full((1, 160000), 0.1 / 128, np.float32)  # 0.1 of an 8-bit step, which rounding alone would lose
    encode(tmp_path / "in" / "a.wav", quiet, rate=16000)
    preprocess(tmp_path / "in", out, PrepareSettings(bit_depth=8))
    samples, _ = soundfile.read(out / "a.wav")
    assert soundfile.info(out / "a.wav").subtype == "PCM_U8"
    assert np.mean(samples) * 128 == pytest.approx(0.1, abs=0.01)
    assert np.std(samples) * 128 == pytest.approx(np.sqrt(1 / 4), abs=0.02)  # triangular 1/6 and rounding 1/12


def test_the_same_sound_gives_the_same_bytes_in_whatever_order(source: Path, tmp_path: Path) -> None:
    preprocess(source, tmp_path / "one", PrepareSettings(), jobs=1)
    preprocess(source, tmp_path / "two", PrepareSettings(), jobs=3)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert len({track.content for track in read_tracks(tmp_path / "one")}) == 3


# ---- Again


def test_what_is_done_is_skipped(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")}
    summary = preprocess(source, out, PrepareSettings())
    assert (summary.prepared, summary.skipped, summary.tracks) == (0, 3, 3)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.wav")} == times


def test_sources_are_known_by_their_content_not_by_their_dates(
    source: Path, out: Path, encode: Encode, tone: Tone, tmp_path: Path
) -> None:
    preprocess(source, out, PrepareSettings())
    before = snapshot(out)
    moved = tmp_path / "elsewhere"
    shutil.copytree(source, moved)  # with other dates
    for _ in range(2):
        summary = preprocess(moved, out, PrepareSettings())
        assert (summary.prepared, summary.prepared_hours, summary.skipped, summary.tracks) == (0, 0, 3, 3)
    path = moved / "'quoted' \U0001f3b5.flac"
    dates = path.stat()
    path.write_bytes(encode(tmp_path / "other.flac", np.concatenate([tone(501), tone(601)])).read_bytes())
    os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))  # another sound under the same date
    assert preprocess(moved, out, PrepareSettings()).prepared == 1
    assert {name for name, data in snapshot(out).items() if data != before[name]} == {"'quoted' \U0001f3b5.wav"}


def test_of_two_of_a_kind_the_other_takes_its_place_when_one_changes(
    tmp_path: Path, out: Path, tone: Tone, encode: Encode
) -> None:
    source = tmp_path / "in"
    for name in ("a.wav", "b.wav"):
        encode(source / name, tone(500))
    assert preprocess(source, out, PrepareSettings()).duplicates == {"b.wav": "a.wav"}
    encode(source / "a.wav", tone(600))
    summary = preprocess(source, out, PrepareSettings())
    assert (summary.tracks, summary.prepared, summary.duplicates) == (2, 2, {})


def test_a_track_without_source_stays_unless_it_is_of_another_kind(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    (source / "B-side" / "deep" / "-rf.m4a").unlink()
    assert preprocess(source, out, PrepareSettings()).tracks == 3
    for _ in range(2):
        summary = preprocess(source, out, PrepareSettings(sample_rate=8000))
        assert {track.rate for track in read_tracks(out)} == {8000} and summary.tracks == 2
        assert summary.failed == {"B-side/deep/-rf.m4a": "Its source is gone, and it was prepared with other settings."}
    assert preprocess(source, out, PrepareSettings()).tracks == 3  # back again


def test_another_format_takes_the_place_of_the_first(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    assert preprocess(source, out, PrepareSettings(format="flac")).prepared == 3
    assert not snapshot(out) and len(list(out.rglob("*.flac"))) == 3
    assert all(track.read(0, 100).shape == (1, 100) for track in read_tracks(out))


def test_what_changed_is_done_again(source: Path, out: Path, tone: Tone, encode: Encode) -> None:
    preprocess(source, out, PrepareSettings())
    encode(source / "B-side" / "deep" / "-rf.m4a", tone(700, 1.4))
    (out / "'quoted' \U0001f3b5.wav").unlink()
    assert preprocess(source, out, PrepareSettings()).prepared == 2
    assert preprocess(source, out, PrepareSettings(sample_rate=8000)).prepared == 3
    assert {track.rate for track in read_tracks(out)} == {8000}


def test_a_file_that_turned_bad_leaves_no_old_waveform(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    (source / "B-side" / "deep" / "-rf.m4a").write_text("gone to the bad")
    assert preprocess(source, out, PrepareSettings()).tracks == 2
    assert len(read_tracks(out)) == len(snapshot(out)) == 2


def test_a_moved_file_and_a_new_one_under_its_old_name(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    source = tmp_path / "in"
    encode(source / "a.wav", tone(500, 0.2))
    preprocess(source, out, PrepareSettings())
    (source / "a.wav").rename(source / "z.wav")
    encode(source / "a.wav", tone(600, 60.0))  # so long that the moved one is finished first
    summary = preprocess(source, out, PrepareSettings(), jobs=2)
    assert (summary.files, summary.tracks, summary.duplicates) == (2, 2, {})
    assert sorted(track.seconds for track in read_tracks(out)) == pytest.approx([0.2, 60])


def test_a_renamed_file_takes_its_waveform_along(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    (source / "B-side" / "deep" / "-rf.m4a").rename(source / "after.m4a")
    assert preprocess(source, out, PrepareSettings()).tracks == 3
    assert (out / "after.wav").exists() and not (out / "B-side" / "deep" / "-rf.wav").exists()


def test_what_only_refuses_does_not_have_everything_done_again(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    assert preprocess(source, out, PrepareSettings(min_seconds=0.2, keep_silent=True)).skipped == 3
    summary = preprocess(source, out, PrepareSettings(max_seconds=1.1))
    assert (summary.skipped, summary.tracks, list(summary.failed)) == (2, 2, ["B-side/deep/-rf.m4a"])
    assert preprocess(source, out, PrepareSettings()).tracks == len(snapshot(out)) == 3


def test_a_wrong_input_takes_nothing_away(source: Path, out: Path, tmp_path: Path) -> None:
    preprocess(source, out, PrepareSettings())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There is no music"):
        preprocess(tmp_path / "empty", out, PrepareSettings(sample_rate=8000))
    assert len(read_tracks(out)) == 3


def test_a_manifest_of_an_earlier_version_is_read(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    former = []
    for record in last_lines(out).values():
        for key in ("bytes", "source_file", "source_sha256", "loudness", "clipped", "silent", "offset", "gain"):
            del record[key]
        former.append(record | {"settings": {"sample_rate": 16000, "bit_depth": 16, "channels": 1}})
    (out / MANIFEST).write_text("".join(json.dumps(record) + "\n" for record in former))
    assert preprocess(source, out, PrepareSettings()).prepared == 3


def test_a_folder_named_as_a_waveform_would_be(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    encode(tmp_path / "in" / "x.flac", tone(500))
    encode(tmp_path / "in" / "x.wav" / "inner.flac", tone(600))
    preprocess(tmp_path / "in", out, PrepareSettings())
    assert list(snapshot(out)) == ["x.flac.wav", "x.wav/inner.wav"]


def test_what_is_not_ours_is_not_swept_away(source: Path, out: Path) -> None:
    (out / ".tmp-mine").mkdir(parents=True)
    (out / ".tmp-notes.txt").write_text("mine")
    (out / ".tmp-0123abcd.wav").write_text("left by a kill")
    preprocess(source, out, PrepareSettings())
    assert sorted(path.name for path in out.glob(".tmp-*")) == [".tmp-mine", ".tmp-notes.txt"]


# ---- Bad files


def test_each_bad_file_is_named_with_its_reason_and_the_rest_goes_on(
    source: Path, out: Path, tone: Tone, encode: Encode, cut: Cut
) -> None:
    (source / "text.mp3").write_text("This is no music. " * 500)
    (source / "empty.mp3").touch()
    (source / "nowhere.mp3").symlink_to(source / "missing")
    encode(source / "silent.wav", 0 * tone())
    encode(source / "short.wav", tone(seconds=0.05))
    cut(encode(source / "half.mp3", tone(seconds=3)), 0.5)
    nan = tone()
    nan[0, 7] = np.inf
    encode(source / "infinite.wav", nan, subtype="FLOAT")
    (source / "cover.jpg").write_bytes(b"\xff\xd8")  # certainly no music: not even tried
    (source / ".hidden.mp3").write_text("nor this")
    os.mkfifo(source / "pipe.mp3")

    summary = preprocess(source, out, PrepareSettings(), jobs=2)

    assert summary.prepared == 3
    assert summary.failed == {
        "empty.mp3": "It is empty.",
        "half.mp3": "It is truncated: 1.5 of 3.0 s are there.",
        "infinite.wav": "It holds samples that are not finite numbers.",
        "nowhere.mp3": "It cannot be read: No such file or directory.",
        "short.wav": "It is too short: 0.050 s.",
        "silent.wav": "It is silent from end to end.",
        "text.mp3": "It cannot be read as audio (invalid data found when processing input).",
    }
    assert len(snapshot(out)) == 3
    assert {name for name, record in last_lines(out).items() if record["status"] == "failed"} == set(summary.failed)


def test_exact_duplicates_are_kept_once(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    source = tmp_path / "in"
    sound = (tone() * 2**31).astype(np.int32)
    encode(source / "b.flac", sound)
    encode(source / "c.wav", sound)
    encode(source / "other.wav", tone(550))
    assert preprocess(source, out, PrepareSettings()).duplicates == {"c.wav": "b.flac"}
    shutil.copy(source / "b.flac", source / "a.flac")  # the first in the alphabet stays, whenever it came
    preprocess(source, out, PrepareSettings())
    assert list(snapshot(out)) == ["a.wav", "other.wav"]
    assert [track.path.name for track in read_tracks(out)] == ["a.wav", "other.wav"]
    assert preprocess(source, out, PrepareSettings()).skipped == 4


# ---- The split


def by_rule(track: PreparedTrack) -> bool:
    return int(track.content, 16) % 20 == 0


@pytest.fixture
def many(tmp_path: Path, tone: Tone, encode: Encode) -> Path:
    for number in range(50):
        encode(tmp_path / "in" / f"{number:02}.wav", tone(200 + 10 * number, 0.15, rate=16000), rate=16000)
    return tmp_path / "in"


def test_the_split_follows_from_content(many: Path, out: Path) -> None:
    preprocess(many, out, PrepareSettings())
    tracks = read_tracks(out)
    assert {t.content for t in tracks if t.split == "heldout"} == {t.content for t in tracks if by_rule(t)} != set()


def test_without_a_chance_hit_the_smallest_hash_is_held_out_and_stays_so(many: Path, tmp_path: Path, out: Path) -> None:
    preprocess(many, tmp_path / "all", PrepareSettings())
    tracks = read_tracks(tmp_path / "all")
    few = tmp_path / "few"
    few.mkdir()
    others = [track for track in tracks if not by_rule(track)]
    for track in others[:2]:
        shutil.copy(many / track.path.name, few)
    for _ in range(2):
        assert preprocess(few, out, PrepareSettings()).heldout == 1
    [first] = [track for track in read_tracks(out) if track.split == "heldout"]
    assert first.content == min(track.content for track in others[:2])

    for path in many.iterdir():
        shutil.copy(path, few)
    (few / first.path.name).touch()  # looked at again, it stays where it was
    preprocess(few, out, PrepareSettings())
    heldout = {track.content for track in read_tracks(out) if track.split == "heldout"}
    assert heldout == {first.content} | {track.content for track in tracks if by_rule(track)}


def test_a_single_track_is_for_training(tmp_path: Path, out: Path, tone: Tone, encode: Encode) -> None:
    encode(tmp_path / "in" / "a.wav", tone())
    assert preprocess(tmp_path / "in", out, PrepareSettings()).heldout == 0


# ---- Places


def test_a_missing_or_empty_input(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        preprocess(tmp_path / "in", out, PrepareSettings())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="There is no music"):
        preprocess(tmp_path / "in", out, PrepareSettings())


def test_nothing_usable(tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp3").write_text("hello")
    with pytest.raises(DataError, match="No file in") as caught:
        preprocess(tmp_path / "in", out, PrepareSettings())
    assert "a.mp3: It cannot be read as audio" in caught.value.hint


def test_an_output_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        preprocess(source, tmp_path / "file", PrepareSettings())
    with pytest.raises(UsageError, match="would contain the input"):
        preprocess(source, tmp_path, PrepareSettings())


def test_a_folder_without_waveforms_names_the_command_that_makes_them(tmp_path: Path, source: Path, out: Path) -> None:
    with pytest.raises(DataError, match="no prepared music") as caught:
        read_tracks(tmp_path)
    assert "musicldm preprocess" in caught.value.hint


def test_a_waveform_that_is_gone_or_changed_is_named_when_it_is_read(source: Path, out: Path) -> None:
    preprocess(source, out, PrepareSettings())
    tracks = read_tracks(out)
    assert tracks[0].read(0, tracks[0].length).shape == (1, tracks[0].length)
    tracks[0].path.write_bytes(tracks[0].path.read_bytes()[:1000])
    with pytest.raises(DataError, match="was changed since"):
        tracks[0].read(0, tracks[0].length)
    tracks[1].path.unlink()
    with pytest.raises(DataError, match=str(tracks[1].path.name)):
        tracks[1].read(0, 10)
