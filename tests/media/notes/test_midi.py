"""MIDI files read and written: the same score both ways, the same notes as symusic's, and what files do wrong."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import symusic
from hypothesis import given, settings

from musicldm.core.errors import DataError, OutputError
from musicldm.media.notes.midi import is_midi, read_midi, write_midi
from musicldm.media.notes.score import Score, Track
from musicldm.media.notes.tracks import Repairs
from tests.media.notes.midis import Event, chunk, meta, midi, note, off, on, scores


def notes_of(score: Score) -> list[tuple[int, int, int, int]]:
    """Start, end, pitch and velocity of every note, in order."""
    columns = [(track.start, track.end, track.pitch, track.velocity) for track in score.tracks]
    return sorted(row for each in columns for row in zip(*(column.tolist() for column in each), strict=True))


@settings(max_examples=40)
@given(scores())
def test_what_is_written_is_read(score: Score) -> None:
    assert read_midi(write_midi(score)) == (score, Repairs())


@settings(max_examples=20)
@given(scores())
def test_another_reader_hears_the_same(score: Score) -> None:
    theirs: Any = symusic.Score.from_midi(write_midi(score))
    heard = Counter(
        (note.time, note.time + note.duration, note.pitch, note.velocity)
        for track in theirs.tracks
        for note in track.notes
    )
    assert heard == Counter(notes_of(score))
    assert theirs.tempos.numpy()["mspq"].tolist() == score.tempos[:, 1].tolist()
    metres = [(metre.time, metre.numerator, metre.denominator) for metre in theirs.time_signatures]
    assert metres == list(map(tuple, score.metres.tolist()))


def test_another_writer_is_read_and_seconds_agree() -> None:
    theirs: Any = symusic.Score(96)
    for tick, quarters in ((0, 70), (100, 133), (960, 20)):
        theirs.tempos.append(symusic.Tempo(tick, qpm=quarters))
    track: Any = symusic.Track(program=40, name="Geige")
    for index in range(20):
        track.notes.append(symusic.Note(61 * index, 50, 60 + index, 1 + index))
    theirs.tracks.append(track)
    score, repairs = read_midi(theirs.dumps_midi())
    assert repairs == Repairs()
    assert (score.tracks[0].program, score.tracks[0].name) == (40, "Geige")
    seconds = [note.time for note in theirs.to("second").tracks[0].notes]
    np.testing.assert_allclose(score.seconds(score.tracks[0].start), seconds, atol=1e-4)
    np.testing.assert_allclose(score.ticks(seconds), score.tracks[0].start, atol=1e-2)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    data = midi(chunk(*note()))
    riff = struct.pack("<4sI4s4sI", b"RIFF", len(data) + 12, b"RMID", b"data", len(data)) + data
    for name, content in (("a.mid", data), ("b.mp3", riff), ("c.mid", b"MThx"), ("d.mid", b"")):
        (tmp_path / name).write_bytes(content)
    found = [is_midi(tmp_path / name) for name in ("a.mid", "b.mp3", "c.mid", "d.mid", "none.mid", "")]
    assert found == [True, True, False, False, False, False]
    assert read_midi(tmp_path / "b.mp3") == read_midi(tmp_path / "a.mid") == read_midi(riff)


def test_a_path_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    score, _ = read_midi(midi(chunk(*note())))
    data = write_midi(score, tmp_path / "new" / "a.mid")
    assert (tmp_path / "new" / "a.mid").read_bytes() == data
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_midi(score, tmp_path / "file" / "a.mid")


def test_a_rest_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(DataError, match="too long"):
        write_midi(Score(32760, 1 << 29))


MENDED: dict[str, tuple[list[Event], list[tuple[int, int, int, int]], Repairs]] = {
    "zero length": (
        [(0, on(60)), (0, off(60)), (480, on(62)), (480, off(62))],
        [(0, 20, 60, 64), (480, 960, 62, 64)],
        Repairs(zero_length=1),
    ),
    "overlapping": (
        [(0, on(60, 10)), (480, on(60, 20)), (480, off(60)), (480, off(60))],
        [(0, 480, 60, 10), (480, 960, 60, 20)],
        Repairs(overlapping=1),
    ),
    "struck twice at once": (
        [(0, on(60, 10)), (0, on(60, 20)), (480, off(60)), (10, off(60))],
        [(0, 480, 60, 20)],
        Repairs(doubled=1),
    ),
    "never ended": (
        [(0, on(60)), (480, on(62)), (480, off(62)), (4800, on(64)), (480, off(64))],
        [(0, 1920, 60, 64), (480, 960, 62, 64), (5760, 6240, 64, 64)],
        Repairs(unended=1),
    ),
    "never ended, struck again": (
        [(0, on(60, 1)), (480, on(60, 2)), (480, off(60))],
        [(0, 480, 60, 1), (480, 960, 60, 2)],
        Repairs(overlapping=1),
    ),
    "never ended, at the end": ([(0, on(60))], [(0, 20, 60, 64)], Repairs(unended=1)),
    "ended without a beginning": (
        [(0, off(60)), (0, on(60)), (480, off(60)), (0, off(61))],
        [(0, 480, 60, 64)],
        Repairs(stray_ends=2),
    ),
    "struck before it is ended": (
        [(0, on(60, 1)), (480, on(60, 2)), (0, off(60)), (480, off(60))],
        [(0, 480, 60, 1), (480, 960, 60, 2)],
        Repairs(),
    ),
    "running status, ended by velocity 0": (
        [(0, on(60)), (480, bytes([60, 0])), (0, meta(6, b"mark")), (0, bytes([62, 9])), (480, bytes([62, 0]))],
        [(0, 480, 60, 64), (480, 960, 62, 9)],
        Repairs(),
    ),
    "other events": (
        [(0, b"\xf0\x03\x01\x02\xf7"), (0, b"\xe0\x00\x40"), (0, b"\xb0\x07\x64"), (0, b"\xd0\x10"), *note()],
        [(0, 480, 60, 64)],
        Repairs(ignored=4),
    ),
}


@pytest.mark.parametrize("fault", MENDED)
def test_what_is_wrong_is_mended_and_counted(fault: str) -> None:
    events, expected, repairs = MENDED[fault]
    score, found = read_midi(midi(chunk(*events)))
    assert (notes_of(score), found) == (expected, repairs)


def test_a_track_without_its_end_and_bytes_behind_the_last_are_nothing_special() -> None:
    data = midi(chunk(*note()))
    assert read_midi(midi(chunk(*note(), ended=False))) == read_midi(data) == read_midi(data + b"\0junk")


@pytest.mark.parametrize(
    ("data", "title", "foreign"),
    [
        ("Prélude, 曲".encode(), "Prélude, 曲", 0),
        ("Prélude à l'après-midi".encode("latin-1"), "Prélude à l'après-midi", 1),
        ("Für Elise – Übung".encode("cp1252"), "Für Elise – Übung", 1),
        ("エリーゼのために No.1".encode("cp932"), "エリーゼのために No.1", 1),
        (b"\xff\x81 a\0", "ÿ\x81 a", 1),
        (b" two\r\nlines ", "two lines", 0),
    ],
)
def test_text_in_the_codings_of_the_world(data: bytes, title: str, foreign: int) -> None:
    score, repairs = read_midi(midi(chunk((0, meta(3, data))), chunk(*note())))
    assert (score.title, repairs.text) == (title, foreign)


def test_titles_of_karaoke_and_of_files_of_one_track() -> None:
    words = [(0, meta(1, text)) for text in (b"@KMIDI KARAOKE FILE", b"@TMy Way", b"@TSomebody", b"@TSomebody else")]
    score, _ = read_midi(midi(chunk(*words), chunk(*note())))
    assert (score.title, score.artist) == ("My Way", "Somebody")
    score, _ = read_midi(midi(chunk((0, meta(3, b"Alone")), *note()), kind=0))
    assert (score.title, score.tracks[0].name) == ("Alone", "")


def test_channels_programs_and_pedals_of_one_track() -> None:
    events: list[Event] = [
        (0, b"\xc0\x05"),
        (0, b"\x06"),  # running status, of one byte
        (0, b"\xb0\x40\x7f"),
        (0, on(60)),
        (0, on(36, channel=9)),
        (480, off(60)),
        (0, off(36, channel=9)),
        (0, b"\xb0\x40\x3f"),
        (0, b"\xc0\x07"),
        *note(),
        (0, b"\xb0\x40\x40"),
        (240, meta(1, b"")),
    ]
    score, _ = read_midi(midi(chunk(*events), kind=0))
    assert [(track.program, track.is_drum) for track in score.tracks] == [(6, False), (7, False), (0, True)]
    assert score.tracks[0].pedals.tolist() == [[0, 480], [960, 1200]] and not len(score.tracks[2].pedals)


def test_a_pedal_and_a_program_in_another_track_act_on_the_channel() -> None:
    score, _ = read_midi(midi(chunk((0, b"\xc0\x28"), (100, b"\xb0\x40\x7f"), (50, b"\xb0\x79\x00")), chunk(*note())))
    assert score.tracks[0].pedals.tolist() == [[100, 150]]
    assert score.tracks[0].program == 40


@pytest.mark.parametrize("division", [1, 24, 100, 1000, 9999, 0x7FFF])
def test_any_ticks_a_quarter_become_a_multiple_of_the_grid(division: int) -> None:
    score, repairs = read_midi(midi(chunk((7, on(60)), (division, off(60))), division=division))
    assert score.resolution % 24 == 0
    assert score.tracks[0].start[0] / score.resolution == pytest.approx(7 / division, abs=1 / score.resolution)
    assert bool(repairs.rounded) == (division in (9999, 0x7FFF))
    assert read_midi(write_midi(score))[0] == score


def test_more_tracks_than_channels() -> None:
    one = Track(np.array([0]), np.array([24]), np.array([60]), np.array([64]))
    tracks = tuple(replace(one, program=index % 128, pedals=np.array([[index, index + 1]])) for index in range(40))
    score = Score(24, 96, tracks)
    assert read_midi(write_midi(score))[0] == score


CONDUCTOR = {
    "tempo 0": (meta(0x51, bytes(3)), "tempo"),
    "a tempo of two bytes": (meta(0x51, bytes([7, 1])), "tempo"),
    "metre 0/4": (meta(0x58, bytes([0, 2, 24, 8])), "time signature"),
    "metre x/2^255": (meta(0x58, bytes([4, 255, 24, 8])), "time signature"),
    "a metre of one byte": (meta(0x58, bytes([4])), "time signature"),
}
GOOD = midi(chunk((0, meta(3, b"Title")), (0, meta(0x51, bytes([7, 1, 2])))), chunk(*note(), *note(64)))
REFUSED: dict[str, tuple[bytes, str]] = {
    **{name: (midi(chunk((0, event)), chunk(*note())), reason) for name, (event, reason) in CONDUCTOR.items()},
    "empty": (b"", "MThd"),
    "junk": (bytes(range(256)), "MThd"),
    "header only": (GOOD[:14], "cut short"),
    "cut in the header": (GOOD[:10], "cut short"),
    "cut in a track": (GOOD[:-5], "cut short"),
    "a track missing": (midi(chunk(*note()), count=2), "cut short"),
    "an event cut short": (midi(chunk(*note(), (0, b"\x90\x40"), ended=False)), "damaged"),
    "SMPTE": (midi(chunk(*note()), division=0xE728), "SMPTE"),
    "type 2": (midi(chunk(*note()), kind=2), "type"),
    "type 513": (midi(chunk(*note()), kind=513), "type"),
    "0 ticks a quarter": (midi(chunk(*note()), division=0), "ticks per quarter note"),
    "no notes": (midi(chunk((0, meta(3, b"Title")))), "no notes"),
    "no tracks": (midi(), "no notes"),
    "ends only": (midi(chunk((0, off(60)), (0, on(60, 0)))), "no notes"),
    "data before a status": (midi(chunk((0, b"\x40\x40"))), "damaged"),
    "data of 8 bits": (midi(chunk((0, b"\x90\x40\xc0"), (0, off(60)))), "damaged"),
    "an unknown status": (midi(chunk((0, b"\xf4"), *note())), "damaged"),
    "a delta of five bytes": (midi(struct.pack(">4sI", b"MTrk", 8) + b"\x81\x81\x81\x81\x01\x90<\x40"), "damaged"),
    "25 days": (midi(chunk((0, on(60)), *[(0x0FFFFFFF, meta(1, b""))] * 8, (0, off(60)))), "expected at most"),
    "days of slowness": (
        midi(chunk((0, meta(0x51, b"\xff\xff\xff")), *note(length=40_000 * 480))),
        "hours: expected at most",
    ),
    "RIFF without MIDI": (struct.pack("<4sI4s4sI", b"RIFF", 12, b"RMID", b"LIST", 0), "RIFF"),
    "RIFF of nonsense": (b"RIFF\xff\xff\xff\xffRMIDdata\xff\xff\xff\xffMTh", "MThd"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_meant_is_refused_with_a_sentence_and_a_hint(fault: str) -> None:
    data, reason = REFUSED[fault]
    with pytest.raises(DataError, match=reason) as caught:
        read_midi(data)
    assert caught.value.message.endswith(".") and caught.value.hint


def test_too_much_is_refused_by_its_count(tmp_path: Path) -> None:
    million = b"\0\x90\x3c\x40" + b"\1\x3c\0\0\x3c\x40" * 1_000_000
    with pytest.raises(DataError, match="expected at most"):
        read_midi(midi(struct.pack(">4sI", b"MTrk", len(million)) + million))
    with (tmp_path / "large.mid").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(DataError, match="too large"):
        read_midi(tmp_path / "large.mid")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.mid", Path("/dev/zero")):
        with pytest.raises(DataError, match="not a file"):
            read_midi(path)


def fuzzed(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes after one to four accidents."""
    raw = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(raw)))
        match rng.integers(5):
            case 0:
                raw[place] = int(rng.integers(256))
            case 1:
                raw[place] ^= 1 << int(rng.integers(8))
            case 2:
                del raw[place : place + int(rng.integers(1, 9))]
            case 3:
                raw[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                raw[place:] = raw[place:][: int(rng.integers(1, 99))]
        if not raw:
            break
    return bytes(raw)


@settings(max_examples=21)
@given(scores())
def test_whatever_the_bytes_it_is_read_or_refused(score: Score) -> None:
    data = write_midi(score)
    rng = np.random.default_rng(len(data))
    for _ in range(100):
        broken = fuzzed(data, rng)
        try:
            found, _ = read_midi(broken)
        except DataError:
            continue
        assert found.notes and read_midi(write_midi(found))[0].notes == found.notes
