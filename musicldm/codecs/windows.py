"""Tracks of any length through any codec in bounded memory, exactly as if they went through whole.

A window is the frames wanted plus `Codec.context` frames on either side, which are computed and thrown away. The
context covers all that a frame depends on; windows start on the codec's `grid`.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from musicldm.codecs.base import Codec
from musicldm.core.capacity import out_of_memory
from musicldm.core.devices import autocast
from musicldm.core.errors import CapacityError, DataError

LARGEST_BATCH = 32
"""Windows in a batch whose size nobody chose: by then any GPU is busy."""

Reader = Callable[[int, int], Tensor]
"""`read(start, stop)` gives units (of audio: samples) start to stop of a track, as [C, stop - start]."""

Pieces = Iterator[tuple[Tensor, Tensor]]
"""The posterior's mean and log-variance of successive pieces of a track, each [D, l] on the CPU."""

OnHalved = Callable[[int], None]
"""Is called with the frames of a window from now on, where the memory did not hold a longer one."""

T = TypeVar("T")


def windows(frames: int, window: int, context: int, grid: int, start: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Cover `frames` with windows of about `window` frames: yields (start, stop, outer start, outer stop).

    All but a track's last are equally long outside, so that they fit into a batch: the first has no context before it
    and keeps that many frames more. So does the last, whose context would be all that is left.
    """
    window, more = max(grid, window // grid * grid), context // grid * grid
    while start < frames:
        stop = start + window + (0 if start else more)
        if stop + context >= frames:
            stop = frames
        yield start, stop, max(0, start - context), min(stop + context, frames)
        start = stop


# ---- One window ----------------------------------------------------------------------------------------------------


def _encode(codec: Codec, media: Tensor, precision: str = "32") -> Tensor:
    """Media [B, C, T] -> the posterior's mean and log-variance, [B, 2, D, L] on the codec's device."""
    with _full_float32(), autocast(precision, codec.device):
        posterior = codec.encode(media.to(codec.device, non_blocking=True))
    return torch.stack([posterior.mean, posterior.logvar], dim=1)


def _decode(codec: Codec, z: Tensor, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
    """Raw latents [B, D, L] -> media [B, C, L·hop] on the codec's device."""
    with _full_float32():
        return codec.decode(z.to(codec.device), None if noise is None else noise.to(codec.device), steps)


def _full_float32() -> AbstractContextManager[None]:
    """No TF32 in convolutions: its 10 bits would let window and whole differ by more than 1e-4."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class _Amount:
    """How much goes through the codec at once: half as much from where the memory did not hold it.

    Args:
        now: to begin with.
        least: what cannot be halved any more.
        refusal: raised where not even that fits.
        on_halved: is called with what it is from then on.
    """

    def __init__(self, now: int, least: int, refusal: CapacityError, on_halved: OnHalved | None = None) -> None:
        self.now = now
        self._least = least
        self._refusal = refusal
        self._on_halved = on_halved

    def attempt(self, work: Callable[[], T], amount: int) -> T | None:
        """The result of `work`, which takes `amount`; None where that was too much, and less is to be tried.

        Raises:
            CapacityError: it was the least already.
        """
        try:
            return work()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # No longer in the clause above: there, the traceback keeps alive the very tensors that are to go.
        if amount // 2 < self._least:
            raise self._refusal
        self.now = amount // 2
        torch.cuda.empty_cache()  # which does nothing where there is no GPU
        if self._on_halved is not None:
            self._on_halved(self.now)
        return None


# ---- One track -----------------------------------------------------------------------------------------------------


def encode_long(
    codec: Codec, read: Reader, length: int, window_frames: int = 1024, on_halved: OnHalved | None = None
) -> Pieces:
    """Encode a track of `length` units (of audio: samples); where the memory is short, in windows of half the length.

    Args:
        read: is called with rising positions, and overlaps.
        window_frames: latent frames kept of each window.
        on_halved: see `OnHalved`.

    Returns:
        The posterior's mean and log-variance of successive pieces, each [D, l] on the CPU; ceil(length / hop) frames
        in all.

    Raises:
        CapacityError: the memory does not hold the shortest window.
    """
    hop = codec.spec.hop

    def media(first: int, last: int) -> Tensor:
        return read(first * hop, min(last * hop, length))

    def encoded(given: Tensor, first: int, kept: slice) -> Tensor:
        return _encode(codec, given[None])[0, ..., kept].cpu()

    latents = _each_window(codec, codec.spec.frames(length), media, encoded, window_frames, on_halved)
    return ((mean, logvar) for mean, logvar in latents)


def decode_long(codec: Codec, z: Tensor, window_frames: int = 1024) -> Iterator[Tensor]:
    """Decode raw latents [D, L] of any length; yields successive pieces of media, [C, l·hop] on the CPU."""
    return decode_pieces(codec, [z], z.shape[-1], window_frames)


def decode_pieces(
    codec: Codec,
    pieces: Iterable[Tensor],
    frames: int,
    window_frames: int = 1024,
    on_halved: OnHalved | None = None,
    noise: Reader | None = None,
    steps: int | None = None,
) -> Iterator[Tensor]:
    """`decode_long`, for raw latents that come piece by piece, [D, l] each and `frames` in all.

    No more is taken, nor held, than the next window needs. Where the memory is short, windows are halved.

    Args:
        on_halved: see `OnHalved`.
        noise: for a diffusion decoder; windows that overlap must be given the same where they do.
        steps: of a diffusion decoder.

    Raises:
        CapacityError: the memory does not hold the shortest window.
    """
    hop = codec.spec.hop

    def decoded(z: Tensor, first: int, kept: slice) -> Tensor:
        drawn = None if noise is None else noise(first * hop, (first + z.shape[-1]) * hop)[None]
        return _decode(codec, z[None], drawn, steps)[0, :, kept.start * hop : kept.stop * hop].cpu()

    return _each_window(codec, frames, _Arriving(pieces).between, decoded, window_frames, on_halved)


@torch.inference_mode()
def _each_window(
    codec: Codec,
    frames: int,
    take: Callable[[int, int], Tensor],
    work: Callable[[Tensor, int, slice], Tensor],
    window_frames: int,
    on_halved: OnHalved | None,
) -> Iterator[Tensor]:
    """Cover a track with windows, shorter ones from where the memory did not hold one; yields what comes of each.

    Args:
        take: gives what goes into a window of frames first to last.
        work: is called with that, with `first`, and with those of the window's frames that are kept.
    """
    refusal = CapacityError(
        "There is not enough memory for even a short window.", "Close other programs, or use a CPU."
    )
    amount = _Amount(window_frames, codec.grid, refusal, on_halved)
    start = 0
    while start < frames:
        # Planned anew each time, since `amount` may have shrunk. A second attempt begins at the same frame, so that
        # `_Arriving` is not asked for what it has let go of.
        start, stop, first, last = next(windows(frames, amount.now, codec.context, codec.grid, start))
        kept = slice(start - first, stop - first)
        done = amount.attempt(functools.partial(work, take(first, last), first, kept), min(amount.now, stop - start))
        if done is not None:
            yield done
            start = stop


class _Arriving:
    """Latents that come piece by piece, [D, l] each, of which no more is held than may still be asked for."""

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self._pieces = iter(pieces)
        self._held: Tensor | None = None
        self._begin = 0

    def between(self, first: int, last: int) -> Tensor:
        """Frames first to last, [D, last - first]. What lies before `first` is let go."""
        held = next(self._pieces) if self._held is None else self._held
        while self._begin + held.shape[-1] < last:
            held = torch.cat([held, next(self._pieces)], dim=-1)
        self._held, self._begin = held[:, first - self._begin :], first
        return self._held[:, : last - first]


def reconstruct_long(codec: Codec, read: Reader, length: int, window_frames: int = 1024) -> Iterator[Tensor]:
    """A track through the codec by its posterior's mode, in bounded memory.

    The arguments are those of `encode_long`. Yields successive pieces, [C, n] on the CPU, `length` in all.
    """
    means = (mean for mean, _ in encode_long(codec, read, length, window_frames))
    for media in decode_pieces(codec, means, codec.spec.frames(length), window_frames):
        yield media[:, :length]
        length -= media.shape[-1]


def reconstruct(codec: Codec, media: Tensor, window_frames: int = 1024) -> Tensor:
    """Media [C, T] through the codec by its posterior's mode, in windows: [C, T]."""
    pieces = reconstruct_long(codec, lambda a, b: media[:, a:b], media.shape[-1], window_frames)
    return torch.cat(list(pieces), dim=-1)


# ---- Many tracks ---------------------------------------------------------------------------------------------------


def encode_many(
    codec: Codec,
    tracks: Iterable[tuple[int, Reader]],
    window_frames: int = 1024,
    batch_size: int | None = None,
    readers: int = 1,
    precision: str = "32",
) -> Generator[tuple[int, Pieces], None, None]:
    """Encode tracks as `encode_long` would, windows of several at once, while the audio of what follows is read ahead.

    Args:
        tracks: of each, its length in units (of audio: samples; at least one) and what reads it, which is called from
            other threads, several at once.
        window_frames: latent frames kept of each window.
        batch_size: windows that go through the codec at once, at most; None: one on a CPU, and on a GPU what its memory
            holds. Where the memory does not hold them, it goes on with half as many.
        readers: threads that read. Audio of up to two batches waits in memory.
        precision: "32", "16" or "bf16". Only the first gives what `encode_long` gives, within 1e-4.

    Yields:
        The number of each track in `tracks`, in order, and its pieces, to be taken before the next track is. Pieces
        that are not taken are not computed. A DataError of a track's reader is raised by its pieces.

    Raises:
        CapacityError: the device's memory does not hold a single window.
    """
    stream = _Stream(codec, tracks, window_frames, batch_size, precision)
    with ThreadPoolExecutor(readers, "reader") as pool:
        try:
            for track, run in itertools.groupby(stream.run(pool), key=lambda window: window.track):
                yield track, _pieces(run)
                stream.forget(track)  # whoever has given up on it wants no more of it; groupby passes over the rest
        finally:
            # `with` alone would first have everything read that is waiting in the pool.
            pool.shutdown(wait=False, cancel_futures=True)


# By identity, not by fields: windows are keys of a dictionary.
@dataclass(eq=False)
class _Window:
    """A piece of a track on its way through the codec."""

    track: int
    kept: slice
    """Of its frames, those without the context."""
    frames: int
    """With them."""
    is_last: bool
    """Of its track."""
    latents: Callable[[], Tensor] = field(init=False)
    """Waits for mean and log-variance, [2, D, frames], or raises why there are none. Set when the codec has begun."""


_Ahead = dict[_Window, Future[Tensor]]
"""What the codec has not had yet, in order, and its media [C, frames · hop], read or being read."""


def _pieces(run: Iterator[_Window]) -> Pieces:
    for window in run:
        mean, logvar = window.latents()[..., window.kept]
        yield mean, logvar
        if window.is_last:  # to look further would be to wait for the next track
            return


class _Stream:
    """The windows of all tracks in order; but they go through the codec in the order that fills its batches."""

    def __init__(
        self,
        codec: Codec,
        tracks: Iterable[tuple[int, Reader]],
        window_frames: int,
        batch_size: int | None,
        precision: str,
    ) -> None:
        self._codec = codec
        self._on_gpu = codec.device.type == "cuda"
        self._tracks = tracks
        self._window_frames = window_frames
        self._probing = batch_size is None and self._on_gpu
        refusal = CapacityError(
            "The device does not have enough memory for a single window.", "Use shorter windows: --window-seconds."
        )
        # On a CPU, two at once are slower by a quarter and four by a half: their activations leave the cache.
        self._batch_size = _Amount(batch_size or 1, 1, refusal)
        self._precision = precision
        self._forgotten = -1

    def forget(self, track: int) -> None:
        """Do no more for it."""
        self._forgotten = track

    @torch.inference_mode()
    def run(self, pool: ThreadPoolExecutor) -> Iterator[_Window]:
        """Every window in order, once the codec has it or its error is known."""
        plan = self._plan(pool)
        ahead: _Ahead = {}
        begun: deque[_Window] = deque()  # in order: what is ahead, and what the codec has had but waits for its turn
        while True:
            for window, media in itertools.islice(plan, max(0, 2 * self._batch_size.now - len(ahead))):
                ahead[window] = media
                begun.append(window)
            if not begun:
                return
            busy = self._launch(ahead)
            # What the device works on now is handed out after the next batch has been given to it: it never waits.
            while begun and begun[0] not in ahead and begun[0] not in busy:
                yield begun.popleft()

    def _plan(self, pool: ThreadPoolExecutor) -> Iterator[tuple[_Window, Future[Tensor]]]:
        codec, hop = self._codec, self._codec.spec.hop
        for track, (length, read) in enumerate(self._tracks):
            frames = codec.spec.frames(length)
            for start, stop, first, last in windows(frames, self._window_frames, codec.context, codec.grid):
                if track == self._forgotten:
                    break
                media = pool.submit(_read, read, first * hop, last * hop, length)
                yield _Window(track, slice(start - first, stop - first), last - first, stop == frames), media

    def _launch(self, ahead: _Ahead) -> list[_Window]:
        """Take a batch out of `ahead` and through the codec; returns what the device is still at work on."""
        batch = self._choose(ahead)
        if not batch:
            return []
        read = [ahead[window].result() for window in batch]
        media = torch.stack(read) if len(batch) > 1 else read[0][None]  # which copies nothing
        work = self._probe if self._probing else self._begin
        latents = self._batch_size.attempt(functools.partial(work, media), len(batch))
        if latents is None:
            return []  # they stay ahead, and come again
        for number, window in enumerate(batch):
            window.latents = functools.partial(_item, latents, number)
            del ahead[window]
        return batch if self._on_gpu else []

    def _choose(self, ahead: _Ahead) -> list[_Window]:
        """The first window and what fits into a batch with it; what is not wanted or cannot be read is passed over."""
        batch: list[_Window] = []
        for window, media in list(ahead.items()):
            if window.track == self._forgotten:
                media.cancel()
            elif batch and window.frames != batch[0].frames:
                continue
            elif not isinstance(media.exception(), DataError):
                # Any error but a DataError is a bug and not a bad file: such a window joins the batch, where it is
                # raised and ends everything.
                batch.append(window)
                if len(batch) == self._batch_size.now:
                    break
                continue
            window.latents = media.result  # which raises
            del ahead[window]
        return batch

    def _begin(self, media: Tensor) -> Callable[[], Tensor]:
        """Begin to encode [B, C, T]; returns what waits for the end and gives mean and log-variance, [B, 2, D, L]."""
        if not self._on_gpu:
            latents = _encode(self._codec, media, self._precision).cpu()
            return lambda: latents
        # Only pinned memory is copied while the GPU works, in either direction.
        encoded = _encode(self._codec, media.pin_memory(), self._precision)
        arriving = torch.empty(encoded.shape, dtype=encoded.dtype, pin_memory=True)
        arriving.copy_(encoded, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self._codec.device))

        def wait() -> Tensor:
            arrived.synchronize()
            return arriving

        return wait

    def _probe(self, media: Tensor) -> Callable[[], Tensor]:
        """Encode the first window of all on a GPU, and see how many at once its memory would hold."""
        self._probing, device = False, self._codec.device
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        latents = self._begin(media)
        latents()
        needed = torch.cuda.max_memory_allocated(device) - before
        # What the allocator has reserved and given to nobody is as good as free.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
        longest = (self._window_frames + 2 * self._codec.context) * self._codec.spec.hop
        # The first window may be shorter than the longest. The other 0.3 is left for what one window cannot show: other
        # algorithms of cuDNN, and blocks of the allocator that do not fit together.
        fitting = int(0.7 * free / needed * media.shape[-1] / longest)
        self._batch_size.now = max(1, min(fitting, LARGEST_BATCH))
        return latents


def _read(read: Reader, start: int, stop: int, length: int) -> Tensor:
    """Units start to stop of a track, its end filled with silence: [C, stop - start]."""
    media = read(start, min(stop, length))
    if stop <= length:
        return media
    # By NumPy: a torch operation would give this thread a team of OpenMP threads, and with more of these than cores
    # they no longer stay awake for the codec's next layer, which then takes a seventh longer.
    return torch.from_numpy(np.pad(media.numpy(), ((0, 0), (0, stop - length))))


def _item(batch: Callable[[], Tensor], number: int) -> Tensor:
    return batch()[number]
