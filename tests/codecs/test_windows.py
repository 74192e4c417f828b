"""`encode_many`: windows of many tracks through the VAE together, as if each track went alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
import torch
from torch import Tensor

from musicldm.codecs.posterior import DiagonalGaussian
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import Reader, encode_long, encode_many, windows
from musicldm.core.errors import DataError, MusicLDMError
from tests.codecs.toy_vaes import TOYS, awake

TOY = TOYS["patched"]
WINDOW = 2 * TOY.attention_block
WHOLE = (WINDOW + 2 * TOY.context) * TOY.hop  # samples in a window with the context on both sides
LENGTHS = [5 * WHOLE, 1, 3 * WHOLE + 5, TOY.hop, WHOLE - 1, 5 * WHOLE]


class Watched(VAE):
    """A VAE that notes down what it is given, and whose memory may be small."""

    def __init__(self, holds: int = 10**9) -> None:
        torch.manual_seed(0)
        super().__init__(TOY)
        awake(self)
        self.holds = holds
        self.batches: list[int] = []

    def encode(self, waveform: Tensor) -> DiagonalGaussian:
        if len(waveform) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(waveform))
        return super().encode(waveform)


def sounds(lengths: list[int]) -> list[Tensor]:
    return [
        torch.randn(TOY.audio_channels, n, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(lengths)
    ]


def reader(sound: Tensor) -> Reader:
    return lambda start, stop: sound[:, start:stop]


def together(
    vae: VAE, tracks: Sequence[tuple[int, Reader]], batch_size: int | None = None, readers: int = 1
) -> dict[int, Tensor]:
    """Each track's mean over its log-variance, [2D, L]."""
    return {
        number: torch.cat([torch.cat(piece) for piece in pieces], dim=1)
        for number, pieces in encode_many(vae, tracks, WINDOW, batch_size, readers)
    }


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("readers", [1, 3])
def test_together_is_as_alone(batch_size: int, readers: int) -> None:
    vae = Watched()
    tracks = sounds(LENGTHS)
    found = together(vae, [(s.shape[1], reader(s)) for s in tracks], batch_size=batch_size, readers=readers)
    assert list(found) == list(range(len(tracks)))
    assert max(vae.batches) == batch_size
    for number, sound in enumerate(tracks):
        alone = torch.cat([torch.cat(p) for p in encode_long(vae, reader(sound), sound.shape[1], WINDOW)], dim=1)
        assert found[number].shape == alone.shape == (2 * TOY.latent_channels, -(-sound.shape[1] // TOY.hop))
        assert (found[number] - alone).abs().max() <= 1e-4 * alone.abs().max()


def test_all_windows_of_a_track_but_the_last_fit_into_a_batch() -> None:
    context, grid = TOY.context, TOY.attention_block
    for frames in (1, context, WINDOW + 2 * context, WINDOW + 2 * context + 1, 20 * context, 20 * context + 3):
        cover = list(windows(frames, WINDOW, context, grid))
        assert [0] + [stop for _, stop, *_ in cover] == [start for start, *_ in cover] + [frames]
        assert {last - first for _, _, first, last in cover[:-1]} <= {WINDOW + 2 * context}
        assert cover[-1][3] - cover[-1][2] <= WINDOW + 2 * context
        assert all(first % grid == start % grid == 0 for start, _, first, _ in cover)
        assert all(
            first in (0, start - context) and last in (frames, stop + context) for start, stop, first, last in cover
        )


def test_windows_of_several_tracks_share_a_batch() -> None:
    vae = Watched()
    together(vae, [(WHOLE + 1, reader(s)) for s in sounds([WHOLE + 1] * 8)], batch_size=4)
    assert vae.batches == [4, 4, 4, 4]  # each track has a window and a rest


def test_a_batch_too_large_for_the_memory_is_halved() -> None:
    vae, tracks = Watched(holds=3), sounds([5 * WHOLE, 2 * WHOLE])
    tasks = [(s.shape[1], reader(s)) for s in tracks]
    found = together(vae, tasks, batch_size=8)
    assert max(vae.batches) == 2
    wanted = together(Watched(), tasks, batch_size=1)
    for number in wanted:
        torch.testing.assert_close(found[number], wanted[number], rtol=1e-4, atol=1e-4)


def test_a_memory_that_holds_no_window_is_one_sentence() -> None:
    with pytest.raises(MusicLDMError, match="does not have enough memory for a single window") as caught:
        together(Watched(holds=0), [(100, reader(s)) for s in sounds([100])], batch_size=4)
    assert "--window-seconds" in caught.value.hint


def fails(after: int, error: Exception) -> Callable[[int, int], Tensor]:
    def read(start: int, stop: int) -> Tensor:
        if start >= after:
            raise error
        return torch.zeros(TOY.audio_channels, stop - start)

    return read


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("after", [0, 2 * WHOLE])
def test_a_track_that_cannot_be_read_fails_alone(after: int, batch_size: int) -> None:
    good = sounds([2 * WHOLE] * 3)
    tracks = [(2 * WHOLE, reader(s)) for s in good]
    tracks[1] = (30 * WHOLE, fails(after, DataError("It is gone.")))
    vae, complete = Watched(), {}
    for number, pieces in encode_many(vae, tracks, WINDOW, batch_size, readers=2):
        try:
            complete[number] = sum(mean.shape[1] for mean, _ in pieces)
        except DataError as error:
            assert (number, error.message) == (1, "It is gone.")
    assert complete == {0: 2 * WHOLE // TOY.hop, 2: 2 * WHOLE // TOY.hop}
    assert sum(vae.batches) < 30, "nothing more is done for it"


def test_another_error_ends_it_all() -> None:
    with pytest.raises(ZeroDivisionError):
        together(Watched(), [(100, fails(0, ZeroDivisionError()))])


def test_pieces_that_nobody_takes_are_not_computed() -> None:
    vae = Watched()
    tracks = [(30 * WHOLE, reader(s)) for s in sounds([30 * WHOLE] * 2)]
    assert [number for number, _ in encode_many(vae, tracks, WINDOW, batch_size=2)] == [0, 1]
    assert sum(vae.batches) <= 8


@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_more_than_two_batches_are_read_ahead(batch_size: int) -> None:
    begun, lock = set(), threading.Lock()

    def read(start: int, stop: int) -> Tensor:
        with lock:
            begun.add(start)
        return torch.zeros(TOY.audio_channels, stop - start)

    vae = Watched()
    with closing(encode_many(vae, [(100 * WHOLE, read)], WINDOW, batch_size, readers=8)) as tracks:
        _, pieces = next(tracks)
        for taken, _ in enumerate(pieces):
            assert len(begun) <= sum(vae.batches) + 2 * batch_size
            if taken == 20:
                break
    readers = [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
    for thread in readers:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in readers), "the readers end with it"


def test_reading_goes_on_while_the_vae_works() -> None:
    """The window after the one in the VAE is read meanwhile: without that, this would wait for ever."""
    reads = threading.Semaphore(0)

    class Waiting(Watched):
        def encode(self, waveform: Tensor) -> DiagonalGaussian:
            assert reads.acquire(timeout=30) and reads.acquire(timeout=30)
            reads.release()
            return super().encode(waveform)

    def read(start: int, stop: int) -> Tensor:
        reads.release()
        return torch.zeros(TOY.audio_channels, stop - start)

    def one_more(start: int, stop: int) -> Tensor:
        reads.release()
        return read(start, stop)

    tracks = [*[(8, read)] * 5, (8, one_more)]
    assert len(together(Waiting(), tracks, batch_size=1)) == 6
