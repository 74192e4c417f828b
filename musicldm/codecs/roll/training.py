"""Prepared MIDI files -> a trained codec of rolls."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from musicldm.codecs.roll.config import RollRunConfig
from musicldm.codecs.roll.losses import agreement, roll_loss
from musicldm.codecs.roll.model import RollCodec, roll_of_logits, transposed
from musicldm.codecs.training import CodecTraining
from musicldm.codecs.windows import reconstruct
from musicldm.media.notes.picture import picture
from musicldm.media.notes.roll import score_of
from musicldm.media.notes.synth import DEMO_RATE, render_roll
from musicldm.training.trainable import Demo


class RollTraining(CodecTraining[RollCodec]):
    """A codec of rolls in training."""

    config: RollRunConfig
    model_class = RollCodec

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        """Those of a draw from the posterior, of crops moved by a few semitones each."""
        if most := self.config.transpose:
            chance = self.rand_like(batch[:, 0, 0])
            batch = transposed(batch, (chance * (2 * most + 1)).long() - most)
        posterior = self.model.posterior(batch)
        z = posterior.at(self.randn_like(posterior.mean))
        return roll_loss(batch, self.model.decoder(z), posterior, self.config.loss)

    def heldout_losses(self, crops: Tensor) -> dict[str, Tensor]:
        """Those of the posterior's mode, and how well the notes agree."""
        posterior = self.ema.posterior(crops)
        logits = self.ema.decoder(posterior.mode())
        return roll_loss(crops, logits, posterior, self.config.loss) | agreement(crops, roll_of_logits(logits))

    def demos(self) -> list[Demo]:
        """Held-out music beside its reconstruction, played by the built-in piano."""
        return [
            Demo(
                name=str(number),
                audio={title: torch.from_numpy(render_roll(roll.numpy())) for title, roll in rolls.items()},
                sample_rate=DEMO_RATE,
            )
            for number, rolls in enumerate(self._compared(), 1)
        ]

    def pictures(self, folder: Path) -> list[Path]:
        """The piano rolls of the same."""
        drawn = []
        for number, rolls in enumerate(self._compared(), 1):
            for title, roll in rolls.items():
                drawn.append(folder / f"{number}-{title}-roll.png")
                picture(drawn[-1], score_of(roll.numpy()), title)
        return drawn

    def _compared(self) -> list[dict[str, Tensor]]:
        """By title: each excerpt [C, T], and what `ema` makes of it."""
        return [{"original": each, "reconstruction": reconstruct(self.ema, each)} for each in self.excerpts]
