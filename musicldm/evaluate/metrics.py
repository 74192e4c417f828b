"""The metrics that compare a reconstruction with its original.

Shapes: C channels, T samples, any axes before them; targets and estimates are audio [..., C, T] in [-1, 1]. A metric
of an item covers all its channels.

Every metric is made of sums over time, so a long sound can be measured piece by piece, with the same result as whole.
No configuration of a training changes them: they stay comparable.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from musicldm.core.errors import DataError, MismatchError
from musicldm.media.audio.l1 import waveform_spectrogram_l1

WINDOWS = {2048: 320, 1024: 160, 512: 80, 256: 40, 128: 20, 64: 10, 32: 5}
"""Samples of a Hann window -> mel bands. Windows lie a quarter of their length apart, the first and the last centred
on the ends of the sound, beyond which there is silence."""
LIMIT = 100.0
"""dB; SI-SDR lies between -LIMIT and LIMIT."""
SILENT = 1e-5
"""RMS about the mean, -100 dBFS; what is quieter is silence."""

_MARGIN = max(WINDOWS) // 2  # samples that windows reach beyond a segment
_LONGEST_HOP = max(WINDOWS) // 4
_FLOOR = 1e-5  # of magnitudes where a sine at full scale reads 0.5: 94 dB below it
_MEL_FLOOR = 1e-5

_Sums = dict[str, Tensor]


@dataclass(frozen=True)
class Reconstruction:
    """How close a reconstruction is: means over items, or the metrics of one sound."""

    seconds: float
    """Of all items together."""
    mel: float
    """See `mel_distance`; 0 is perfect."""
    mel_to_silence: float | None
    """See `mel_l1_to_silence`: 0 is perfect, 1 no better than silence. Silent items do not count; None where all are
    silent."""
    stft: float
    """See `multi_resolution_stft_distance`; 0 is perfect."""
    si_sdr: float | None
    """dB, see `si_sdr`; higher is closer. Silent items do not count; None where all are silent."""
    l1: float | None
    """See `waveform_spectrogram_l1`; a long sound's is the mean over its segments."""
    l1_of_silence: float | None
    """The same of silence in place of the reconstruction."""
    l1_to_silence: float | None
    """One over the other: 0 is perfect, 1 no better than silence. None where the original is silent."""

    @property
    def is_of_silence(self) -> bool:
        """Whether there was nothing but silence to reconstruct."""
        return self.mel_to_silence is None

    def without_phase(self) -> Reconstruction:
        """The same without what compares sample by sample: of a codec that makes phases up, it would say nothing."""
        return replace(self, si_sdr=None, l1=None, l1_of_silence=None, l1_to_silence=None)


def si_sdr(target: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB: [..., C, T] to [...].

    10·log10(‖αs‖² / ‖αs − ŝ‖²) with α = ⟨ŝ, s⟩ / ‖s‖² (Le Roux et al. 2019, eq. 3 and 4), one α for all channels, each
    channel without its mean. An exact copy has LIMIT; where target or estimate is silent, -LIMIT.

    Raises:
        MismatchError: target and estimate differ in shape.
        DataError: they are empty.
    """
    x, y = _pair(target, estimate)
    return _si_sdr(_moments(x, y))


def multi_resolution_stft_distance(target: Tensor, estimate: Tensor) -> Tensor:
    """Distance of magnitude spectrograms, dimensionless: [..., C, T] to [...].

    The mean over WINDOWS of ‖|X| − |Y|‖ / ‖|X|‖ + mean |ln |X| − ln |Y|| (the two terms of Yamamoto et al. 2020, eq. 4
    and 5). Windows have unit sum, so that a sine at full scale reads 0.5; in the second term magnitudes below 1e-5
    count as 1e-5, and so does the root mean square of |X| in the first.

    Raises:
        MismatchError: target and estimate differ in shape.
        DataError: they are empty.
    """
    x, y = _pair(target, estimate)
    spectrograms = _spectrograms(_padded(x), _padded(y), x.shape[-1], last=True)
    return _stft_distance(torch.stack([_stft_sums(*each) for each in spectrograms]))


def mel_distance(target: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Distance of mel spectrograms: [..., C, T] to [...].

    The sum over WINDOWS of mean |log10 X − log10 Y|, X and Y being magnitudes in mel bands (Slaney's scale, of unit
    area, from 0 Hz to the Nyquist frequency), windows unscaled, values below 1e-5 counting as 1e-5: the mel loss that
    Kumar et al. 2023 (Descript's codec) train with, except beyond the ends. A tenth is 2 dB.

    Raises:
        MismatchError: target and estimate differ in shape.
        DataError: they are empty.
    """
    x, y = _pair(target, estimate)
    spectrograms = _spectrograms(_padded(x), _padded(y), x.shape[-1], last=True)
    return _mel_distance(torch.stack([_mel_sums(*each, sample_rate) for each in spectrograms]))


def mel_l1_to_silence(target: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """L1 distance of mel spectrograms over that of silence: [..., C, T] to [...]; of a silent target not a number.

    The mean over WINDOWS of sum |X − Y| / sum |X|, X and Y being the magnitudes of `mel_distance`, of which no
    logarithm is taken: 0 is perfect, 1 no better than silence. So it goes by what is loud, as a listener does first,
    where the logarithms of `mel_distance` count a band that should be empty as much as one in which a note sounds.

    Raises:
        MismatchError: target and estimate differ in shape.
        DataError: they are empty.
    """
    x, y = _pair(target, estimate)
    spectrograms = _spectrograms(_padded(x), _padded(y), x.shape[-1], last=True)
    return _mel_l1_to_silence(torch.stack([_mel_sums(*each, sample_rate) for each in spectrograms]))


def compare(target: Tensor, estimate: Tensor, sample_rate: int) -> Reconstruction:
    """All metrics of crops [..., C, T], on their own device.

    Raises:
        MismatchError: target and estimate differ in shape.
        DataError: they are empty.
    """
    x, y = _pair(target, estimate)
    return _reconstruction(_sums(_padded(x), _padded(y), x.shape[-1], sample_rate, last=True))


class Comparison:
    """Compares a sound and its reconstruction piece by piece, in the memory of one segment, however long they are.

    Args:
        sample_rate: of both.
        segment_seconds: how much is measured at once.
        keeps_phase: whether samples can be compared, as `Codec.keeps_phase` says; see `Reconstruction.without_phase`.
    """

    def __init__(self, sample_rate: int, segment_seconds: float = 10.0, *, keeps_phase: bool = True) -> None:
        self._sample_rate = sample_rate
        self._keeps_phase = keeps_phase
        # A multiple of the longest hop, so that the windows of a segment lie where they lie in the whole sound.
        self._segment = max(1, round(segment_seconds * sample_rate / _LONGEST_HOP)) * _LONGEST_HOP
        self._held: Tensor | None = None  # [2, C, _MARGIN + n]: what is still to be measured, and the margin before it
        self._sums: _Sums = {}

    def add(self, target: Tensor, estimate: Tensor) -> None:
        """Add the next samples [C, n] of both.

        Raises:
            MismatchError: they differ in shape.
            DataError: they are empty.
        """
        piece = torch.stack(_pair(target, estimate))
        held = F.pad(piece, (_MARGIN, 0)) if self._held is None else torch.cat([self._held, piece], dim=-1)
        while held.shape[-1] >= self._segment + 2 * _MARGIN:
            self._sums = self._and(held, self._segment, last=False)
            # Not the margin, which the windows of the next segment reach back into.
            held = held[..., self._segment :]
        self._held = held

    def result(self) -> Reconstruction:
        """The metrics of all that was added.

        Raises:
            DataError: nothing was added.
        """
        if self._held is None:
            raise DataError("There is no audio to compare.")
        sums = self._and(F.pad(self._held, (0, _MARGIN)), self._held.shape[-1] - _MARGIN, last=True)
        figures = _reconstruction(sums)
        return figures if self._keeps_phase else figures.without_phase()

    def _and(self, held: Tensor, samples: int, last: bool) -> _Sums:
        sums = _sums(held[0], held[1], samples, self._sample_rate, last)
        return {name: self._sums[name] + value for name, value in sums.items()} if self._sums else sums


# ---- Sums over time, and what is made of them ----------------------------------------------------------------------
#
# x and y are target and estimate with what lies beyond them, [..., C, _MARGIN + samples + _MARGIN]; `last` says that
# the sound ends after `samples`. Sums are [what is summed, ...] in float64 on the CPU, spectral ones [windows, what is
# summed, ...].


def _sums(x: Tensor, y: Tensor, samples: int, sample_rate: int, last: bool) -> _Sums:
    """All that a `Reconstruction` is made of."""
    target, estimate = (z[..., _MARGIN : _MARGIN + samples].reshape(-1, x.shape[-2], samples) for z in (x, y))
    l1 = torch.stack([waveform_spectrogram_l1(target, other) for other in (estimate, torch.zeros_like(target))])
    stft, mel = [], []
    for each in _spectrograms(x, y, samples, last):
        stft.append(_stft_sums(*each))
        mel.append(_mel_sums(*each, sample_rate))
    return {
        "moments": _moments(x[..., _MARGIN : _MARGIN + samples], y[..., _MARGIN : _MARGIN + samples]),
        "stft": torch.stack(stft),
        "mel": torch.stack(mel),
        # Weighted by the seconds, so that the segments of a sound can be summed like everything else here.
        "l1": torch.cat([l1.cpu().double(), torch.ones(1)]) * (len(target) * samples / sample_rate),
    }


def _reconstruction(sums: _Sums) -> Reconstruction:
    sounding = _energies(sums["moments"])[0] > 0
    decibels = _si_sdr(sums["moments"])[sounding]
    l1, silence, seconds = sums["l1"].tolist()
    return Reconstruction(
        seconds=seconds,
        mel=_mel_distance(sums["mel"]).mean().item(),
        mel_to_silence=_mel_l1_to_silence(sums["mel"])[sounding].mean().item() if sounding.any() else None,
        stft=_stft_distance(sums["stft"]).mean().item(),
        si_sdr=decibels.mean().item() if len(decibels) else None,
        l1=l1 / seconds,
        l1_of_silence=silence / seconds,
        l1_to_silence=l1 / silence if sounding.any() else None,
    )


def _moments(x: Tensor, y: Tensor) -> Tensor:
    """[..., C, T] to [6, ..., C]: in float64, since the energy of a small error is a difference of large ones."""
    x, y = x.cpu().double(), y.cpu().double()
    count = torch.full(x.shape[:-1], x.shape[-1], dtype=torch.float64)
    return torch.stack([count, *(z.sum(dim=-1) for z in (x, y, x * x, y * y, x * y))])


def _energies(moments: Tensor) -> Tensor:
    """[6, ..., C] to [3, ...]: of the target, of the estimate and common to both, about the means; 0 for silence."""
    count, x, y, xx, yy, xy = moments
    energies = torch.stack([xx - x * x / count, yy - y * y / count, xy - x * y / count]).sum(dim=-1)
    silent = energies[:2] <= SILENT**2 * count.sum(dim=-1)
    return energies.masked_fill(torch.cat([silent, silent.any(dim=0, keepdim=True)]), 0.0)


def _si_sdr(moments: Tensor) -> Tensor:
    target, estimate, common = _energies(moments)
    least = 10 ** (-LIMIT / 10)
    # The fraction of the estimate's energy that is the target's: the square of their correlation.
    fraction = (common.square() / (target * estimate).clamp_min(1e-300)).clamp(least / (1 + least), 1 / (1 + least))
    # αs and what it leaves of ŝ are orthogonal: of its energy they have r² and 1 − r², whose ratio is eq. 3.
    return 10 * torch.log10(fraction / (1 - fraction))


def _stft_sums(size: int, target: Tensor, estimate: Tensor) -> Tensor:
    target, estimate = 2 / size * target, 2 / size * estimate  # the sum of the window is half its length
    logarithms = (target.clamp_min(_FLOOR).log() - estimate.clamp_min(_FLOOR).log()).abs()
    return _sum((target - estimate).square(), target.square(), logarithms)


def _stft_distance(sums: Tensor) -> Tensor:
    difference, energy, logarithms, count = sums.unbind(1)
    convergence = (difference / energy.maximum(_FLOOR**2 * count)).sqrt()
    return (convergence + logarithms / count).mean(dim=0)


def _mel_sums(size: int, target: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    bands = _mel_bands(sample_rate, size, str(target.device))
    # In half precision the product would lose quiet bands.
    with torch.autocast(target.device.type, enabled=False):
        target, estimate = bands @ target, bands @ estimate
        logarithms = (target.clamp_min(_MEL_FLOOR).log10() - estimate.clamp_min(_MEL_FLOOR).log10()).abs()
    return _sum(logarithms, (target - estimate).abs(), target)


def _mel_distance(sums: Tensor) -> Tensor:
    logarithms, _, _, count = sums.unbind(1)
    return (logarithms / count).sum(dim=0)


def _mel_l1_to_silence(sums: Tensor) -> Tensor:
    _, difference, magnitudes, _ = sums.unbind(1)
    return (difference / magnitudes).mean(dim=0)


def _spectrograms(x: Tensor, y: Tensor, samples: int, last: bool) -> Iterator[tuple[int, Tensor, Tensor]]:
    """|STFT| of both, [..., C, F, frames], for one window length after another; the length comes first.

    A segment has the windows centred in it, which reach into the margins; the last also the one centred on its end.
    """
    for size in WINDOWS:
        hop = size // 4
        frames = samples // hop + last
        start = _MARGIN - size // 2
        window = torch.hann_window(size, device=x.device)
        magnitudes = []
        for z in (x, y):
            span = z[..., start : start + (frames - 1) * hop + size]
            spectrum = torch.stft(
                span.reshape(-1, span.shape[-1]), size, hop, window=window, center=False, return_complex=True
            )
            magnitudes.append(spectrum.abs().reshape(*z.shape[:-1], *spectrum.shape[-2:]))
        yield size, magnitudes[0], magnitudes[1]


def _sum(*values: Tensor) -> Tensor:
    """The sum of each [..., C, F, frames], and last the count of elements: [len(values) + 1, ...], on the CPU."""
    sums = [value.sum(dim=(-3, -2, -1)) for value in values]
    count = torch.full_like(sums[0], values[0].shape[-3:].numel())
    return torch.stack([*sums, count]).cpu().double()  # not every device has float64


@lru_cache(maxsize=64)
def _mel_bands(sample_rate: int, size: int, device: str) -> Tensor:
    """Weights [mel bands, F]; bands that are too narrow to hold a frequency are left out."""
    with warnings.catch_warnings(), torch.inference_mode(False):
        warnings.filterwarnings("ignore", "At least one mel filterbank", UserWarning)
        bands: Tensor = torchaudio.functional.melscale_fbanks(
            size // 2 + 1, 0.0, sample_rate / 2, WINDOWS[size], sample_rate, norm="slaney", mel_scale="slaney"
        ).T
    return bands[bands.amax(dim=1) > 0].to(device)


def _pair(target: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    if target.shape != estimate.shape:
        raise MismatchError(
            f"A reconstruction of shape {tuple(estimate.shape)} does not match {tuple(target.shape)}.",
            "Cut both to the same length and give them the same channels.",
        )
    if not target.numel():
        raise DataError("There is no audio to compare.")
    return target.detach().float(), estimate.detach().float()


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (_MARGIN, _MARGIN))
