"""The processes that train together, one on each device: who they are, how they start, and what they agree on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import Popen

import torch
import torch.distributed as dist
from torch import Tensor

from musicldm.core.errors import UsageError
from musicldm.training.config import TrainingConfig


@dataclass(frozen=True)
class Processes:
    """All of them, as one of them sees them. Alone, every operation is the identity."""

    rank: int
    """Of this one; 0 is the main process, which writes and speaks."""
    size: int
    device: torch.device
    """Of this one."""
    launched: tuple[Popen[bytes], ...] = ()
    """Those that this one has started."""

    @property
    def main(self) -> bool:
        """Whether this is the main one."""
        return self.rank == 0

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows [N, …] of all processes in the order of their ranks: [size·N, …]."""
        if self.size == 1:
            return rows
        # Every process fills in its own rows and adds zeros elsewhere: the sum is the whole table.
        table = rows.new_zeros(self.size, *rows.shape)
        table[self.rank] = rows
        dist.all_reduce(table)
        return table.flatten(0, 1)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors, such as gradients, by their means over all processes."""
        if self.size == 1:
            return
        # A sum goes by place: all processes must bring the same tensors, in the same order.
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, mean in zip(bucket, torch.split(flat, [item.numel() for item in bucket]), strict=True):
                tensor.copy_(mean.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether a process says yes."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags.item())

    def all_have(self, value: int) -> bool:
        """Whether all processes have the same value."""
        values = self.gathered(torch.tensor([value], device=self.device))
        return bool((values == value).all())

    def end(self) -> None:
        """End those that this one has started, which would wait for it in vain: on GPUs for many minutes."""
        for process in self.launched:
            process.kill()


def rank_of(plan: TrainingConfig) -> int:
    """The rank of this process, which its launcher has put into the environment before the processes have met."""
    if plan.processes == 1:
        return 0
    if "RANK" in os.environ:  # torchrun
        return int(os.environ["RANK"])
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:  # Lightning's own
        return int(os.environ.get("NODE_RANK", 0)) * plan.devices + int(os.environ.get("LOCAL_RANK", 0))
    return int(os.environ.get("SLURM_PROCID", 0))


def launch(plan: TrainingConfig, device: torch.device) -> Processes:
    """Start the other processes where nobody else has (they run the same command), and meet them.

    Raises:
        UsageError: more devices than there are, or devices that cannot train together.
    """
    check_devices(plan, device)
    if plan.processes == 1:
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)
        return Processes(0, 1, device)
    from lightning.fabric import Fabric  # only here: it takes seconds to load

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # a user is told by this package what matters
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=plan.devices, num_nodes=plan.nodes, strategy="ddp")
    fabric.launch()
    launched = getattr(fabric.strategy.launcher, "procs", [])
    return Processes(fabric.global_rank, fabric.world_size, fabric.device, tuple(launched))


def check_devices(plan: TrainingConfig, device: torch.device) -> None:
    """See that a training's devices are there.

    Raises:
        UsageError: more devices than there are, or devices that cannot train together.
    """
    if device.type == "cuda" and plan.devices > torch.cuda.device_count():
        raise UsageError(
            f"There are {torch.cuda.device_count()} GPUs here, not {plan.devices}.", "Lower --devices to what there is."
        )
    if plan.processes > 1 and device.type not in ("cpu", "cuda"):
        raise UsageError(f"Several {device.type} devices cannot train together.", "Leave --devices out.")
    if plan.devices > 1 and device.index is not None:
        raise UsageError(
            f"{device} is one device, not {plan.devices}.", "Leave the number out of --device, or --devices."
        )


def _buckets(tensors: list[Tensor], elements: int = 2**24) -> Iterator[list[Tensor]]:
    """The tensors in their order, in groups of about so many elements: a few large messages travel fastest."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(item.numel() for item in bucket) >= elements:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
