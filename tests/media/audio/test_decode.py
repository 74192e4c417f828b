"""Other people's files: what comes out, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musicldm.core.errors import DataError
from musicldm.media.audio.decode import decode, probe
from tests.media.audio.sounds import Cut, Encode, Tone, decoded, level

# ---- Resampling and mixing


@pytest.mark.parametrize("hertz", [8500, 9000, 10000])
def test_what_lies_above_the_new_nyquist_is_gone(tmp_path: Path, tone: Tone, encode: Encode, hertz: float) -> None:
    path = encode(tmp_path / "a.wav", tone(hertz, volume=0.99))
    assert level(decoded(path)) < -100


@pytest.mark.parametrize("hertz", [100, 3000, 7000])
def test_what_lies_below_stays_as_it_was(tmp_path: Path, tone: Tone, encode: Encode, hertz: float) -> None:
    path = encode(tmp_path / "a.wav", tone(hertz, volume=0.5))
    assert level(decoded(path)) == pytest.approx(20 * np.log10(0.5), abs=0.1)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    path = encode(tmp_path / "a.wav", np.concatenate([tone(volume=0.6), tone(volume=0.2)]))
    assert level(decoded(path)) == pytest.approx(20 * np.log10(0.4), abs=0.01)


def test_stereo_from_mono_is_double(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    audio = decoded(encode(tmp_path / "a.wav", tone()), channels=2)
    assert len(audio) == 2
    np.testing.assert_array_equal(audio[0], audio[1])


def test_stereo_from_surround_keeps_the_sides_apart(tmp_path: Path, encode: Encode) -> None:
    volumes = np.array([0.6, -0.6, 0.3, 0.1, 0.2, -0.2], np.float32)  # FL FR FC LFE and, behind or beside, L R
    path = encode(tmp_path / "a.flac", np.tile(volumes[:, None], (1, 8000)), rate=16000)
    left, right = decoded(path, channels=2)[:, 4000]
    assert left == pytest.approx((0.6 + 0.3 + 0.1 + 0.2) / 4, abs=1e-4)
    assert right == pytest.approx((-0.6 + 0.3 + 0.1 - 0.2) / 4, abs=1e-4)


def test_a_rate_that_changes_midway_keeps_the_time(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    parts = [encode(tmp_path / f"{rate}.mp3", tone(rate=rate), rate=rate) for rate in (44100, 22050)]
    whole = tmp_path / "both.mp3"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert decoded(whole).shape[1] == pytest.approx(2 * 16000, rel=0.06)


@pytest.mark.parametrize("suffix", [".mp3", ".aac"])
@pytest.mark.parametrize("first", [1, 2])
def test_channels_that_change_midway_are_all_heard(
    tmp_path: Path, tone: Tone, encode: Encode, suffix: str, first: int
) -> None:
    mono, stereo = tone(440), np.concatenate([tone(440), tone(1000)])
    parts = [encode(tmp_path / f"{len(sound)}{suffix}", sound) for sound in (mono, stereo)]
    whole = tmp_path / f"both{suffix}"
    whole.write_bytes(b"".join(part.read_bytes() for part in (parts if first == 1 else reversed(parts))))
    audio = decoded(whole, sample_rate=44100)[0]
    halves = [np.abs(np.fft.rfft(half[8000:30050])) for half in (audio[:42000], audio[-42000:])]
    heard = [[half[hertz // 2] / 11025 for hertz in (440, 1000)] for half in halves]
    both, alone = (heard[1], heard[0]) if first == 1 else (heard[0], heard[1])
    assert alone == pytest.approx([0.5, 0.0], abs=0.05) and both == pytest.approx([0.25, 0.25], abs=0.05)


# ---- Decoding


def test_samples_depend_on_the_sound_alone(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    sound = (tone(seconds=10) * 2**31).astype(np.int32)  # whole numbers, which no encoder rounds in its own way
    wav, flac = (decoded(encode(tmp_path / name, sound)) for name in ("a.wav", "a.flac"))
    assert wav.shape == (1, 160000)
    np.testing.assert_array_equal(wav, flac)


@pytest.mark.parametrize(
    ("subtype", "error"), [("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("DOUBLE", 1e-6)]
)
def test_every_sample_format_comes_out_alike(
    tmp_path: Path, tone: Tone, encode: Encode, subtype: str, error: float
) -> None:
    sound = np.concatenate([tone(rate=16000), tone(880, rate=16000)])
    audio = decoded(encode(tmp_path / "a.wav", sound, rate=16000, subtype=subtype), channels=2)
    np.testing.assert_allclose(audio, sound, atol=error)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".webm", ".ogg", ".flac"])
def test_compressed_files_come_out_whole(tmp_path: Path, tone: Tone, encode: Encode, suffix: str) -> None:
    path = encode(tmp_path / f"a{suffix}", np.repeat(tone(seconds=2, rate=48000), 2, axis=0), rate=48000)
    audio = decoded(path)
    assert audio.shape[1] == pytest.approx(32000, abs=1000)
    assert level(audio) == pytest.approx(-6, abs=0.5)


def test_probe_reads_the_header_and_the_tags(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    path = encode(tmp_path / "a.m4a", tone(seconds=2), artist="Some  One", title="Any\nThing")
    info = probe(path)
    assert (info.codec, info.sample_rate, info.channels, info.artist, info.title) == (
        "aac", 44100, 1, "Some One", "Any Thing",
    )  # fmt: skip
    assert info.seconds == pytest.approx(2, abs=0.05)
    of_album = encode(tmp_path / "b.m4a", tone(), artist=" ", album_artist="Some Band")
    assert probe(of_album).artist == "Some Band"


@pytest.mark.parametrize("suffix", [".mp3", ".m4a", ".flac", ".webm"])
def test_a_truncated_file_is_refused(tmp_path: Path, tone: Tone, encode: Encode, cut: Cut, suffix: str) -> None:
    path = cut(encode(tmp_path / f"a{suffix}", tone(seconds=4, rate=48000), rate=48000), 0.6)
    with pytest.raises(DataError, match="truncated"):
        decoded(path)


def test_a_damaged_file_is_refused(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    path = encode(tmp_path / "a.m4a", tone(seconds=4) + 0.1 * tone(3000, seconds=4))
    data = bytearray(path.read_bytes())
    chance = np.random.default_rng(0)
    for position in chance.integers(len(data) // 3, len(data), size=400):
        data[position] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        decoded(path)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    sound = tone()
    sound[0, 5000] = np.nan
    with pytest.raises(DataError, match="not finite"):
        decoded(encode(tmp_path / "a.wav", sound, subtype="FLOAT"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"x", "cannot be read as audio"),
        (b"All work and no play makes Jack a dull boy.\n" * 20000, "no audio|cannot be read as audio"),
        (b"<html><body>404</body></html>", "cannot be read as audio"),
    ],
)
def test_what_is_no_audio_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason):
        decoded(path)


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        "<Representation id='0'><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    ],
    ids=["hls", "concat", "dash"],
)
def test_a_playlist_reads_no_other_file(tmp_path: Path, tone: Tone, encode: Encode, suffix: str, text: str) -> None:
    foreign = encode(tmp_path / "secret.wav", tone())
    path = tmp_path / f"a{suffix}"
    path.write_text(text.format(foreign))
    code = (
        "import sys, pathlib; from musicldm.media.audio.decode import decode; "
        "[*decode(pathlib.Path(sys.argv[1]), 16000, 1)]"
    )
    with pytest.raises(DataError, match="cannot be read as audio"):
        decoded(path)
    if shutil.which("strace"):
        command = ["strace", "-f", "-e", "trace=open,openat", sys.executable, "-c", code, str(path)]
        trace = subprocess.run(command, capture_output=True)
        assert b"secret.wav" not in trace.stderr


@pytest.mark.parametrize("name", ["late.mka", "late.webm", "late.avi"])
def test_sound_that_begins_late_is_no_truncated_sound(tmp_path: Path, tone: Tone, encode: Encode, name: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("this system has no ffmpeg")
    sound = encode(tmp_path / "a.webm", tone(seconds=3, rate=48000), rate=48000)
    codec = ["-c:a", "copy"] if name != "late.avi" else ["-c:a", "libmp3lame"]
    command = ["ffmpeg", "-v", "error", "-itsoffset", "10", "-i", str(sound), *codec, str(tmp_path / name)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    assert decoded(tmp_path / name).shape[1] == pytest.approx(3 * 16000, abs=2000)


def test_a_chain_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    parts = [encode(tmp_path / f"{rate}.ogg", tone(seconds=3, rate=rate), rate=rate) for rate in (44100, 48000)]
    whole = tmp_path / "chain.ogg"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(DataError, match=r"damaged|truncated"):
        decoded(whole)


@pytest.mark.parametrize("rate", [3, 999])
def test_a_header_with_an_absurd_rate_is_refused(tmp_path: Path, tone: Tone, encode: Encode, rate: int) -> None:
    path = encode(tmp_path / "a.wav", tone())
    path.write_bytes(path.read_bytes().replace((44100).to_bytes(4, "little"), rate.to_bytes(4, "little"), 1))
    with pytest.raises(DataError, match=f"no sound has {rate} samples a second"):
        decoded(path)


def test_a_raised_rate_comes_in_small_pieces(tmp_path: Path, tone: Tone, encode: Encode) -> None:
    path = encode(tmp_path / "a.wav", tone(200, seconds=60, rate=1000), rate=1000)
    blocks = list(decode(path, 384000, 1))
    assert sum(block.shape[1] for block in blocks) == 60 * 384000
    assert max(block.shape[1] for block in blocks) < 1 << 19
