"""Tracks of any length through the VAE in bounded memory, exactly as if they went through whole.

A window is the frames wanted plus `VAEConfig.margin` frames on either side, which are computed and thrown away. The
margin covers all that a frame depends on; windows start on the grid of the attention blocks.

`encode_long` is one track, window after window. `encode_many` is many: threads read ahead, and windows of one length,
of whichever track, go through the VAE together.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from musicldm.codecs.vae.model import VAE, Reader
from musicldm.core.devices import autocast, out_of_memory
from musicldm.core.errors import CapacityError, DataError, MusicLDMError

LARGEST_BATCH = 32
"""Windows in a batch that was not asked for: by then any GPU is busy."""

Pieces = Iterator[tuple[Tensor, Tensor]]
"""The posterior's mean and log-variance of successive pieces of a track, each [D, l] on the CPU."""


Shorter = Callable[[int], None]
"""Hears of how many frames a window is from now on, where the memory did not hold a longer one."""


def windows(frames: int, window: int, margin: int, grid: int, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Cover `frames` with windows of about `window` frames: yields (start, stop, outer start, outer stop).

    All but a track's last are equally long outside, so that they fit into a batch: the first has no margin before it
    and keeps that many frames more. So does the last, whose margin would be all that is left.
    """
    window, more = max(grid, window // grid * grid), margin // grid * grid
    while start < frames:
        stop = start + window + (0 if start else more)
        if stop + margin >= frames:
            stop = frames
        yield start, stop, max(0, start - margin), min(stop + margin, frames)
        start = stop


# ---- One track -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def encode_long(
    vae: VAE, read: Reader, samples: int, window_frames: int = 1024, shorter: Shorter | None = None
) -> Pieces:
    """Encode a track of `samples` samples; where the memory does not suffice, in windows of half as many frames.

    Args:
        read: gives samples start to stop as [C, stop - start]; asked in rising order, with overlaps.
        window_frames: latent frames kept of each window.
        shorter: hears of it where windows become shorter.

    Yields:
        The posterior's mean and log-variance of successive pieces, each [D, l] on the CPU; ceil(samples / hop)
        frames in all.

    Raises:
        CapacityError: the memory does not hold the shortest window.
    """
    config, device = vae.config, next(vae.parameters()).device
    frames, start = -(-samples // config.hop), 0
    while start < frames:
        start, stop, first, last = next(windows(frames, window_frames, config.margin, config.attention_block, start))
        audio = read(first * config.hop, min(last * config.hop, samples))
        kept = slice(start - first, stop - first)
        piece: tuple[Tensor, Tensor] | None = None
        try:
            with _full_float32():
                posterior = vae.encode(audio[None].to(device))
            piece = posterior.mean[0, :, kept].cpu(), posterior.logvar[0, :, kept].cpu()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if piece is None:
            window_frames = _halved(vae, min(window_frames, stop - start), shorter)
            continue
        yield piece
        start = stop


def decode_long(vae: VAE, z: Tensor, window_frames: int = 1024) -> Iterator[Tensor]:
    """Decode raw latents [D, L] of any length; yields successive pieces of the waveform, [C, l·hop] on the CPU."""
    return decode_pieces(vae, [z], z.shape[-1], window_frames)


@torch.inference_mode()
def decode_pieces(
    vae: VAE, pieces: Iterable[Tensor], frames: int, window_frames: int = 1024, shorter: Shorter | None = None
) -> Iterator[Tensor]:
    """`decode_long`, for raw latents that come piece by piece, [D, l] each and `frames` in all.

    No more is asked for, nor held, than the next window needs. Where the memory does not suffice, windows are halved,
    and `shorter` hears of it.

    Raises:
        CapacityError: the memory does not hold the shortest window.
    """
    config, device = vae.config, next(vae.parameters()).device
    arriving = iter(pieces)
    held, begin, start = next(arriving), 0, 0
    while start < frames:
        start, stop, first, last = next(windows(frames, window_frames, config.margin, config.attention_block, start))
        while begin + held.shape[-1] < last:
            held = torch.cat([held, next(arriving)], dim=-1)
        held, begin = held[:, first - begin :], first
        kept = slice((start - first) * config.hop, (stop - first) * config.hop)
        audio: Tensor | None = None
        try:
            with _full_float32():
                audio = vae.decode(held[None, :, : last - first].to(device))[0, :, kept].cpu()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if audio is None:
            window_frames = _halved(vae, min(window_frames, stop - start), shorter)
            continue
        yield audio
        start = stop


def _halved(vae: VAE, window_frames: int, shorter: Shorter | None) -> int:
    """Half of a window that the memory did not hold.

    Raises:
        CapacityError: that would be less than the shortest.
    """
    half = window_frames // 2
    if half < vae.config.attention_block:
        raise CapacityError(
            "The memory does not hold even a short window of audio.", "Close other programs, or use a CPU."
        )
    if next(vae.parameters()).device.type == "cuda":
        torch.cuda.empty_cache()
    if shorter is not None:
        shorter(half)
    return half


def reconstruct_long(vae: VAE, read: Reader, samples: int, window_frames: int = 1024) -> Iterator[Tensor]:
    """A track through the VAE by its posterior's mode, in bounded memory.

    The arguments are those of `encode_long`. Yields successive pieces, [C, n] on the CPU, `samples` in all.
    """
    means = (mean for mean, _ in encode_long(vae, read, samples, window_frames))
    for audio in decode_pieces(vae, means, -(-samples // vae.config.hop), window_frames):
        yield audio[:, :samples]
        samples -= audio.shape[-1]


def reconstruct(vae: VAE, waveform: Tensor, window_frames: int = 1024) -> Tensor:
    """A waveform [C, T] through the VAE by its posterior's mode, in windows: [C, T]."""
    pieces = reconstruct_long(vae, lambda a, b: waveform[:, a:b], waveform.shape[-1], window_frames)
    return torch.cat(list(pieces), dim=-1)


# ---- Many tracks ---------------------------------------------------------------------------------------------------


def encode_many(
    vae: VAE,
    tracks: Iterable[tuple[int, Reader]],
    window_frames: int = 1024,
    batch_size: int | None = None,
    readers: int = 1,
    precision: str = "32",
) -> Generator[tuple[int, Pieces], None, None]:
    """Encode track after track as `encode_long` would, while the audio of what follows is read ahead.

    Args:
        tracks: of each, its samples (at least one) and what reads them; asked from other threads, several at once.
        window_frames: latent frames kept of each window.
        batch_size: windows that go through the VAE at once, at most; None: one on a CPU, and on a GPU what its memory
            holds. Where the memory does not hold them, it goes on with half as many.
        readers: threads that read. Audio of up to two batches waits in memory.
        precision: "32", "16" or "bf16". Only the first gives what `encode_long` gives, within 1e-4.

    Yields:
        The number of each track in `tracks`, in order, and its pieces, to be taken before the next track is asked
        for. Pieces that are not taken are not computed. A DataError of a track's reader is raised by its pieces.

    Raises:
        MusicLDMError: the device's memory does not hold a single window.
    """
    stream = _Stream(vae, tracks, window_frames, batch_size, precision)
    with ThreadPoolExecutor(readers, "reader") as pool:
        try:
            for track, run in itertools.groupby(stream.run(pool), key=lambda window: window.track):
                yield track, _pieces(run)
                stream.forget(track)  # whoever has given up on it wants no more of it; groupby passes over the rest
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(eq=False)
class _Window:
    """A piece of a track on its way through the VAE."""

    track: int
    kept: slice
    """Of its frames, those without the margins."""
    frames: int
    """With them."""
    is_last: bool
    """Of its track."""
    latents: Callable[[], Tensor] = field(init=False)
    """Waits for mean and log-variance, [2, D, frames], or raises why there are none. Set when the VAE has begun."""


_Ahead = dict[_Window, Future[Tensor]]
"""What the VAE has not had yet, in order, and its audio [C, frames · hop], read or being read."""


def _pieces(run: Iterator[_Window]) -> Pieces:
    for window in run:
        mean, logvar = window.latents()[..., window.kept]
        yield mean, logvar
        if window.is_last:  # to look further would be to wait for the next track
            return


class _Stream:
    """The windows of all tracks in order; but they go through the VAE in the order that fills its batches."""

    def __init__(
        self,
        vae: VAE,
        tracks: Iterable[tuple[int, Reader]],
        window_frames: int,
        batch_size: int | None,
        precision: str,
    ) -> None:
        self._vae = vae
        self._device = next(vae.parameters()).device
        self._tracks = tracks
        self._window_frames = window_frames
        self._probing = batch_size is None and self._device.type == "cuda"
        # On a CPU, two at once are slower by a quarter and four by a half: their activations leave the cache.
        self._batch_size = batch_size or 1
        self._precision = precision
        self._forgotten = -1

    def forget(self, track: int) -> None:
        """Do no more for it."""
        self._forgotten = track

    @torch.inference_mode()
    def run(self, pool: ThreadPoolExecutor) -> Iterator[_Window]:
        """Every window in order, once the VAE has it or its error is known."""
        plan = self._plan(pool)
        ahead: _Ahead = {}
        begun: deque[_Window] = deque()  # in order: what is ahead, and what the VAE has had but waits for its turn
        while True:
            for window, audio in itertools.islice(plan, max(0, 2 * self._batch_size - len(ahead))):
                ahead[window] = audio
                begun.append(window)
            if not begun:
                return
            busy = self._launch(ahead)
            # What the device works on now is handed out after the next batch has been given to it: it never waits.
            while begun and begun[0] not in ahead and begun[0] not in busy:
                yield begun.popleft()

    def _plan(self, pool: ThreadPoolExecutor) -> Iterator[tuple[_Window, Future[Tensor]]]:
        config = self._vae.config
        for track, (samples, read) in enumerate(self._tracks):
            frames = -(-samples // config.hop)
            for start, stop, first, last in windows(frames, self._window_frames, config.margin, config.attention_block):
                if track == self._forgotten:
                    break
                audio = pool.submit(_read, read, first * config.hop, last * config.hop, samples)
                yield _Window(track, slice(start - first, stop - first), last - first, stop == frames), audio

    def _launch(self, ahead: _Ahead) -> list[_Window]:
        """Take a batch out of `ahead` and through the VAE; returns what the device is still at work on."""
        batch = self._choose(ahead)
        if not batch:
            return []
        waveforms = [ahead[window].result() for window in batch]
        audio = torch.stack(waveforms) if len(batch) > 1 else waveforms[0][None]  # which copies nothing
        try:
            latents = self._probe(audio) if self._probing else self._encode(audio)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise MusicLDMError(
                    "The device's memory does not hold a single window.", "Ask for shorter ones: --window-seconds."
                ) from error
            self._batch_size = len(batch) // 2
            torch.cuda.empty_cache()
            return []  # they stay ahead, and come again
        for number, window in enumerate(batch):
            window.latents = functools.partial(_item, latents, number)
            del ahead[window]
        return batch if self._device.type == "cuda" else []

    def _choose(self, ahead: _Ahead) -> list[_Window]:
        """The first window and what fits into a batch with it; what is not wanted or cannot be read is passed over."""
        batch: list[_Window] = []
        for window, audio in list(ahead.items()):
            if window.track == self._forgotten:
                audio.cancel()
            elif batch and window.frames != batch[0].frames:
                continue
            elif not isinstance(audio.exception(), DataError):
                batch.append(window)
                if len(batch) == self._batch_size:
                    break
                continue
            window.latents = audio.result  # which raises
            del ahead[window]
        return batch

    def _encode(self, audio: Tensor) -> Callable[[], Tensor]:
        """Begin to encode [B, C, T]; returns what waits for the end and gives mean and log-variance, [B, 2, D, L]."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            audio = audio.pin_memory()  # only such memory is copied while the GPU works
        with _full_float32(), autocast(self._precision, self._device):
            posterior = self._vae.encode(audio.to(self._device, non_blocking=True))
        latents = torch.stack([posterior.mean, posterior.logvar], dim=1)
        if not on_gpu:
            latents = latents.cpu()
            return lambda: latents
        arriving = torch.empty(latents.shape, dtype=latents.dtype, pin_memory=True)
        arriving.copy_(latents, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._device))

        def wait() -> Tensor:
            arrived.synchronize()
            return arriving

        return wait

    def _probe(self, audio: Tensor) -> Callable[[], Tensor]:
        """Encode the first window of all on a GPU, and see how many at once its memory would hold."""
        self._probing = False
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        latents = self._encode(audio)
        latents()
        needed = torch.cuda.max_memory_allocated(self._device) - before
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        free = torch.cuda.mem_get_info(self._device)[0] + unused
        longest = self._window_frames + 2 * self._vae.config.margin
        fitting = int(0.7 * free / needed * audio.shape[-1] / (longest * self._vae.config.hop))
        self._batch_size = max(1, min(fitting, LARGEST_BATCH))
        return latents


def _read(read: Reader, start: int, stop: int, samples: int) -> Tensor:
    """Samples start to stop of a track, its end filled with silence: [C, stop - start]."""
    audio = read(start, min(stop, samples))
    if stop <= samples:
        return audio
    # By NumPy: a torch operation would give this thread a team of OpenMP threads, and with more of these than cores
    # they no longer stay awake for the VAE's next layer, which then takes a seventh longer.
    return torch.from_numpy(np.pad(audio.numpy(), ((0, 0), (0, stop - samples))))


def _item(batch: Callable[[], Tensor], number: int) -> Tensor:
    return batch()[number]


def _full_float32() -> AbstractContextManager[None]:
    """No TF32 in convolutions: its 10 bits would let window and whole differ by more than 1e-4."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
