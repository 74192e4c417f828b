"""Where a training goes when its loss goes wrong: back to the last good checkpoint."""

from __future__ import annotations

from pathlib import Path

from musicldm.core import durable
from musicldm.core.errors import TrainingError
from musicldm.training.announce import Announce
from musicldm.training.checkpoints import Checkpoints
from musicldm.training.data import BatchSource
from musicldm.training.state import StepResult
from musicldm.training.step import TrainStep

NAMED = 3
"""Crops of a bad batch that a sentence names."""


class Rollback:
    """Goes back to a checkpoint, past the batch that was met, at half the learning rate.

    Args:
        journal: the file that keeps every rollback; written by the main process.
    """

    def __init__(
        self, step: TrainStep, source: BatchSource, checkpoints: Checkpoints, journal: Path, announce: Announce
    ) -> None:
        self.step = step
        self.source = source
        self.checkpoints = checkpoints
        self.journal = journal
        self.announce = announce

    def __call__(self, result: StepResult) -> None:
        """Go back, because of a step with a fault.

        Raises:
            TrainingError: that has happened more often than the training has patience for.
            DataError: no checkpoint can be read.
        """
        module = self.step.module
        # `restore` gives the module another state; this one stays as it is.
        config, failed = module.training_config, module.state
        crops = self._crops(result)
        where = f"At step {failed.step} the loss {result.fault} on {_some(crops)}"
        if failed.rollbacks == config.patience:
            raise TrainingError(
                f"{where}, and the training has gone back {failed.rollbacks} times already.",
                "The last checkpoint is good. Listen to these places, or start in another folder with a lower "
                "--learning-rate.",
            )
        # A checkpoint from which not one step could be made was bad itself.
        self.step.restore(self.checkpoints.read(before=failed.step == failed.rolled_back_to))
        state = module.state
        state.position = failed.position  # past this batch
        state.lr_factor, state.rollbacks, state.rolled_back_to = failed.lr_factor / 2, failed.rollbacks + 1, state.step
        if not self.step.processes.main:
            return
        rate = config.learning_rate * state.lr_factor
        self.announce(f"{where}: back to step {state.step}, with a learning rate of {rate:.3g} from now on.")
        event = {"rollback": state.rollbacks, "step": failed.step, "loss": result.fault, "crops": crops}
        durable.Journal(self.journal, "rollback").append({**event, "back_to": state.step, "learning_rate": rate})

    def _crops(self, result: StepResult) -> list[str]:
        """The crops that were at fault, as far as is known."""
        module = self.step.module
        # − 1, because the step has moved on past the batch already.
        crops = self.source.describe(module.state.position - 1, module.training_config.batch_size)
        if not result.micro_batches:
            return crops
        size = module.training_config.micro_batch_size
        return [crop for number in result.micro_batches for crop in crops[number * size : (number + 1) * size]]


def _some(crops: list[str]) -> str:
    more = len(crops) - NAMED
    return ", ".join(crops[:NAMED]) + (f" and {more} more" if more > 0 else "")
