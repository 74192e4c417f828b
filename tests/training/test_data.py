"""Batches: their micro-batches, and the worker processes that read them."""

from __future__ import annotations

import multiprocessing

import numpy as np
import torch
from torch.utils.data import DataLoader

from musicldm.media.audio import files
from musicldm.media.dataset import CropDataset, open_splits
from musicldm.training.data import Batches, Workers
from tests.toys import Pipeline, full


def test_slices_of_a_batch_make_up_the_whole_and_its_crops_can_be_named(pipeline: Pipeline) -> None:
    tracks = open_splits(pipeline.wav, 16000, 1)["train"]
    crops = CropDataset(tracks, 4096, 4096, seed=3)
    whole = full(crops.batch(5, 6))
    assert torch.equal(torch.cat([full(crops.batch(5, 6, slice(first, first + 3))) for first in (0, 3)]), whole)
    for crop, name in zip(whole, crops.describe(5, 6), strict=True):
        file, second = name.removesuffix(" s").rsplit(" at ", 1)
        starts = [start for start in range(0, 200 * 4096, 4096) if f"{start / 16000:.1f}" == second]
        found = [files.read(pipeline.wav / file, start, start + 4096) for start in starts]
        assert any(np.array_equal(samples, crop.numpy()) for samples in found), name


class Counting:
    def batch(self, step: int, batch_size: int, part: slice) -> torch.Tensor:
        return torch.tensor([step])

    def describe(self, step: int, batch_size: int) -> list[str]:
        return []


def test_workers_end_with_the_training_and_not_before() -> None:
    others = set(multiprocessing.active_children())
    with Workers() as workers:
        batches = Batches(Counting(), batch_size=1, start=0)
        loader = iter(DataLoader(batches, batch_size=None, num_workers=2, worker_init_fn=workers.begin))
        assert [int(next(loader)) for _ in range(4)] == [0, 1, 2, 3]
        processes = set(multiprocessing.active_children()) - others
        for process in processes:
            process.terminate()
        assert [int(next(loader)) for _ in range(20)] == list(range(4, 24))
    # The loader is still there, as it is in the traceback of an error; Python would wait for its processes for ever.
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
