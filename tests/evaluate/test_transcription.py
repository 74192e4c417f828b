"""Notes that are heard in audio: in segments as at once, and by the real transcribers where they are installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from musicldm.core.errors import MissingProgramError, UsageError
from musicldm.core.registry import Registry
from musicldm.evaluate import transcription
from musicldm.evaluate.basic_pitch import notes_of
from musicldm.evaluate.notes import Note, onset_score
from musicldm.evaluate.transcription import load_transcriber, transcribe, transcribe_audio
from tests.evaluate.toy_transcribers import ToneTranscriber

RATE = 16000


def struck(notes: list[tuple[float, int]], seconds: float) -> Tensor:
    """Decaying tones with overtones, [1, T]."""
    sound = np.zeros(round(seconds * RATE))
    for onset, pitch in notes:
        hertz, since = 440 * 2 ** ((pitch - 69) / 12), np.arange(len(sound) - round(onset * RATE)) / RATE
        for k in range(1, 7):
            tone = np.sin(2 * np.pi * k * hertz * since) * np.exp(-2 * np.sqrt(k) * since)
            sound[round(onset * RATE) :] += 0.2 / k**1.3 * tone
    return torch.from_numpy(sound[None]).float()


# ---- In segments -----------------------------------------------------------------------------------------------------


class Clockwork(ToneTranscriber):
    """Knows the notes of a sound whose samples count its time in hundredths, and is early in some of its segments."""

    def __init__(self, notes: list[Note]) -> None:
        super().__init__()
        self.notes = notes
        self.longest = 0

    def __call__(self, audio: Tensor, sample_rate: int, /) -> list[Note]:
        self.longest = max(self.longest, audio.shape[-1])
        first, last = audio[0, 0].item() / 100, audio[0, -1].item() / 100
        early = 0.02 if first else 0.0
        heard = [note for note in self.notes if first <= note.onset <= last]
        return [Note(note.onset - first - early, note.pitch, note.offset - first, 64) for note in heard]


def test_a_long_sound_has_each_of_its_notes_once() -> None:
    """Those at the seams too, which both sides hear, and not at quite the same time."""
    times = [0.0, 30.0, 59.98, 60.0, 60.01, 60.5, 119.9, 120.01, 121.0, 149.0]
    notes = [Note(time, 60 + number, time + 1, 64) for number, time in enumerate(times)]
    clockwork, sound = Clockwork(notes), torch.arange(15000.0)[None]
    heard = transcribe_audio(clockwork, sound, 100)
    assert [note.pitch for note in heard] == [note.pitch for note in notes]
    np.testing.assert_allclose([note.onset for note in heard], times, atol=0.021)
    assert clockwork.longest <= 6400
    done: list[float] = []
    transcribe(clockwork, lambda a, b: sound[:, a:b], 15000, 100, lambda now, whole, text="": done.append(now))
    assert done == [0, 60, 120]


def test_a_trill_across_a_seam_keeps_all_its_notes() -> None:
    notes = [Note(59.7 + number / 10, 60, 59.75 + number / 10, 64) for number in range(7)]
    assert len(transcribe_audio(Clockwork(notes), torch.arange(10000.0)[None], 100)) == 7


# ---- By name ---------------------------------------------------------------------------------------------------------


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no transcriber 'transcun'") as unknown:
        load_transcriber("transcun")
    assert "transkun" in unknown.value.hint
    absent = Registry("transcriber", {"absent": "tests.evaluate.toy_transcribers:AbsentTranscriber"})
    monkeypatch.setattr(transcription, "TRANSCRIBERS", absent)
    with pytest.raises(MissingProgramError, match="absent is not installed") as missing:
        load_transcriber("absent")
    assert missing.value.hint == "pip install absent" and transcription.installed_transcribers() == []


# ---- The real ones ---------------------------------------------------------------------------------------------------

CHORD = [(0.5, 60), (1.0, 64), (1.5, 67), (2.2, 72)]


@pytest.mark.parametrize("name", ["transkun", "basic-pitch"])
def test_a_chord_is_heard_note_by_note(name: str) -> None:
    if name not in transcription.installed_transcribers():
        pytest.skip(f"needs {name}")
    heard = transcribe_audio(load_transcriber(name), struck(CHORD, 4), RATE)
    wanted = [Note(onset, pitch, onset + 1, 64) for onset, pitch in CHORD]
    assert onset_score(wanted, heard).recall == 1, heard
    assert all(0 <= note.onset < note.offset <= 5 and 1 <= note.velocity <= 127 for note in heard)
    # Overtones of such plain tones may pass for notes, but not before there is anything to be heard.
    assert min(note.onset for note in heard) == pytest.approx(0.5, abs=0.05)


def test_notes_are_formed_of_probabilities() -> None:
    """A note struck twice, one that merely sounds, and what is too short, too faint or only a neighbour's shadow."""
    frames, onsets = np.zeros((200, 88), np.float32), np.zeros((200, 88), np.float32)
    frames[20:100, 39] = 0.8
    frames[20:100, 40] = 0.4
    onsets[20, 39] = onsets[60, 39] = 0.9
    frames[5:180, 10] = np.concatenate([np.linspace(0.0, 0.7, 75), np.full(100, 0.7)])
    frames[30:36, 70], onsets[30, 70] = 0.9, 0.9
    frames[30:90, 80], onsets[30, 80] = 0.2, 0.3
    found = sorted((key, start, stop) for start, stop, key, _ in notes_of(frames, onsets))
    assert [key for key, _, _ in found] == [10, 39, 39]
    (_, begin, end), first, second = found
    assert first == (39, 20, 60) and second == (39, 60, 100)
    assert begin < 60 and end >= 178
    assert notes_of(frames[:2], onsets[:2]) == [] == notes_of(np.zeros_like(frames), np.zeros_like(onsets))
