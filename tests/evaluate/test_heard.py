"""What `evaluate` and `reconstruct` say of what is heard: notes, and codecs that make phases up."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import reconstruct
from musicldm.core.registry import Registry
from musicldm.evaluate import transcription
from musicldm.evaluate.notes import onset_score
from musicldm.media.audio import files
from tests.codecs.phaseless import without_phase
from tests.evaluate.evaluations import parsed, song
from tests.evaluate.toy_transcribers import ToneTranscriber
from tests.toy_model import RATE
from tests.toys import Command

# ---- Notes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transcriber that hears plain tones, in the place of the real ones."""
    place = "tests.evaluate.toy_transcribers:ToneTranscriber"
    monkeypatch.setattr(transcription, "TRANSCRIBERS", Registry("transcriber", {"tones": place}))


@pytest.mark.usefixtures("tones")
def test_notes_of_a_codec(root: Path, musicldm: Command) -> None:
    done = musicldm("evaluate", "vae", root / "model", root / "songs", "--transcriber", "tones", "--json")
    told = parsed(done.out)
    assert done.code == 0 and told["transcriber"] == "tones"
    vae, scores = VAE.load(root / "model"), []
    for track in told["tracks"]:
        audio = torch.from_numpy(files.read(root / "songs" / track["name"]))
        made = reconstruct(vae, audio)
        wanted, found = (ToneTranscriber()(each, RATE) for each in (audio, made))
        scores.append(onset_score(wanted, found))
        assert track["notes"] == asdict(scores[-1]) and 50 <= track["notes"]["reference"] <= 60
    f1 = told["overall"]["onset_f1"]
    assert f1["value"] == pytest.approx(np.mean([score.f1 for score in scores])) and f1["low"] <= f1["high"]
    printed = musicldm("evaluate", "vae", root / "model", root / "data", "--transcriber", "tones")
    (line,) = (line for line in printed.out.splitlines() if line.startswith("note onsets, F1"))
    assert line.split()[-1] in [f"{score.f1:.3f}" for score in scores]
    assert "notes heard by tones" in printed.out


@pytest.mark.usefixtures("tones")
def test_notes_of_samples_beside_held_out_music(root: Path, musicldm: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(13 * RATE), RATE)
    takes = [root / "out" / f"take {number}.wav" for number in (1, 2, 3)]
    arguments = ["evaluate", "samples", *takes, tmp_path / "silence.wav", "--transcriber", "tones"]
    done = musicldm(*arguments, "--reference", root / "data", "--json", "--no-baselines", "--pieces", 3)
    told = parsed(done.out)
    rates, mine = told["note_rates"], {each["name"]: each["notes_per_second"] for each in told["samples"]}
    assert done.code == 0 and rates["transcriber"] == "tones" and "heldout tracks: 2 pieces of 13 s" in rates["words"]
    assert mine.pop(str(tmp_path / "silence.wav")) == 0 and all(1.5 < rate < 2.1 for rate in mine.values())
    music = rates["music"]
    assert music["sounds"] == 2 and 1.5 < music["low"] <= music["median"] <= music["high"] < 2.1
    assert rates["within"] == sum(music["low"] <= rate <= music["high"] for rate in mine.values())
    assert rates["samples"]["sounds"] == 4 and rates["samples"]["median"] == pytest.approx(
        np.median([*mine.values(), 0])
    )
    printed = musicldm(*arguments)
    assert f"heard by tones: median {rates['samples']['median']:.1f}, middle 90 % 0." in printed.out
    assert parsed(musicldm(*arguments, "--json").out)["note_rates"]["music"] is None


def test_where_no_transcriber_is_named(
    root: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line says how to have one where it is installed; one that is not is a sentence, before any work."""
    places = {"tones": "ToneTranscriber", "absent": "AbsentTranscriber"}
    entries = {name: f"tests.evaluate.toy_transcribers:{kind}" for name, kind in places.items()}
    monkeypatch.setattr(transcription, "TRANSCRIBERS", Registry("transcriber", entries))
    soundfile.write(tmp_path / "a.wav", song(1, 2), RATE)
    done = musicldm("evaluate", "samples", tmp_path / "a.wav")
    assert done.code == 0 and done.err.rstrip().endswith("Notes are also compared with --transcriber tones.")
    for which in (["vae", root / "model", tmp_path], ["samples", tmp_path]):
        done = musicldm("evaluate", *which, "--transcriber", "absent")
        assert done.code == 1 and "The transcriber absent is not installed." in done.err and done.out == ""
        assert "Hint: pip install absent" in done.err


# ---- Without phase ---------------------------------------------------------------------------------------------------


def test_a_codec_without_phase_is_not_compared_sample_by_sample(
    root: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = parsed(musicldm("evaluate", "vae", root / "model", root / "data", "--json").out)
    without_phase(monkeypatch)
    told = parsed(musicldm("evaluate", "vae", root / "model", root / "data", "--json").out)
    (track,), (other,) = told["tracks"], plain["tracks"]
    assert plain["keeps_phase"] and not told["keeps_phase"]
    for name in ("si_sdr", "l1", "l1_of_silence", "l1_to_silence"):
        assert track["figures"][name] is told["overall"][name]["value"] is None and other["figures"][name] is not None
    assert track["figures"]["mel"] == pytest.approx(other["figures"]["mel"], rel=0.1)
    printed = musicldm("evaluate", "vae", root / "model", root / "data").out
    assert "SI-SDR" not in printed and "L1 distance" not in printed
    assert printed.index("mel distance") < printed.index("STFT distance") < printed.index("loudness error")
    song = root / "songs" / "song 1.wav"
    done = musicldm("reconstruct", song, tmp_path / "a.wav", "--vae", root / "model", "--seconds", 5, "--json")
    heard = parsed(done.out)
    assert heard["si_sdr"] is heard["l1"] is heard["notes"] is None and heard["mel_to_silence"] > 0
    assert "SI-SDR" not in done.err and "silent" not in done.err
    assert done.err.index("mel distance") < done.err.index("STFT distance")
