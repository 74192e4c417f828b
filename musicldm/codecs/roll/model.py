"""The codec of piano rolls: rolls [B, C, T] <-> raw latents [B, D, L], where L = T / hop, one frame a beat.

    roll ─ mix each step ─ fold the steps of a beat ─ blocks over beats ─ mean, log-variance        (Encoder)
    latent ─ blocks over beats ─ unfold ─ unmix each step ─ roll of probabilities                   (Decoder)

Convolutional over beats, so that windows, infilling and extension work as they do for sound. A step is mixed by weights
that all steps share: which keys go together does not depend on when they are struck.

Shapes: B batch, C the rows of a roll (see `media.notes.roll.Channels`), T steps, D latent channels, L latent frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicldm.codecs.module import CodecModule
from musicldm.codecs.posterior import DiagonalGaussian, posterior_of
from musicldm.codecs.roll.config import RollConfig
from musicldm.media.notes.roll import KEYS, Channels
from musicldm.nn.blocks import ResnetBlock

FASTEST = 5.0
"""Octaves of tempo on either side of 120 quarters a minute."""

USUAL = ((Channels.ONSET, 0.003), (Channels.HOLD, 0.03), (Channels.DOWNBEAT, 0.015), (Channels.BEAT, 0.05))
"""How often each row of a roll is 1 in music, about: where a decoder begins."""


class Encoder(nn.Module):
    """Rolls [B, C, T] -> mean and log-variance [B, 2D, L], or only what will be the mean [B, D, L]."""

    def __init__(self, config: RollConfig) -> None:
        super().__init__()
        self.hop = config.hop
        self.mix = nn.Conv1d(Channels.COUNT, config.step_width, 1)
        self.fold = nn.Conv1d(config.step_width * config.hop, config.width, 1)
        self.blocks = nn.Sequential(*(ResnetBlock(config.width, config.width) for _ in range(config.blocks)))
        moments = 2 if config.bottleneck == "gaussian" else 1
        self.head = nn.Conv1d(config.width, moments * config.latent_channels, 1)

    def forward(self, roll: Tensor) -> Tensor:
        # Nothing between the two: they are one large matrix in fewer numbers, and with a nonlinearity learnt far slower
        # (benchmarks/README.md).
        steps = self.mix(roll)
        # [B, E, T] -> [B, E, L, hop] -> [B, E·hop, L]
        frames = steps.view(*steps.shape[:2], -1, self.hop).transpose(2, 3).flatten(1, 2)
        h = self.blocks(self.fold(frames))
        with torch.autocast(h.device.type, enabled=False):  # what leaves the network is not rounded
            moments: Tensor = self.head(h.float())
        return moments


class Decoder(nn.Module):
    """Latents [B, D, L] -> logits of a roll [B, C, T]; its tempo is a tempo."""

    def __init__(self, config: RollConfig) -> None:
        super().__init__()
        self.hop = config.hop
        self.stem = nn.Conv1d(config.latent_channels, config.width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResnetBlock(config.width, config.width) for _ in range(config.blocks)))
        self.unfold = nn.Conv1d(config.width, config.step_width * config.hop, 1)
        self.unmix = nn.Conv1d(config.step_width, Channels.COUNT, 1)
        if self.unmix.bias is not None:
            for rows, often in USUAL:
                nn.init.constant_(self.unmix.bias[rows], math.log(often / (1 - often)))

    def forward(self, z: Tensor) -> Tensor:
        frames = self.unfold(self.blocks(self.stem(z)))
        # [B, E·hop, L] -> [B, E, hop, L] -> [B, E, T]
        steps = frames.view(len(z), -1, self.hop, z.shape[-1]).transpose(2, 3).flatten(2)
        with torch.autocast(steps.device.type, enabled=False):
            logits: Tensor = self.unmix(steps.float())
        return logits


class RollCodec(CodecModule):
    """Rolls [B, C, T] <-> raw latents [B, D, L]."""

    config: RollConfig
    config_class = RollConfig

    def __init__(self, config: RollConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def keeps_phase(self) -> bool:
        """There is none in notes."""
        return False

    def posterior(self, roll: Tensor) -> DiagonalGaussian:
        """Rolls of whole frames [B, C, L·hop] -> the posterior over raw latents [B, D, L]."""
        return posterior_of(self.encoder(roll), self.config.bottleneck)

    def encode(self, x: Tensor, /) -> DiagonalGaussian:
        """Rolls [B, C, T] -> the posterior over raw latents [B, D, ceil(T / hop)]; the end is filled up with rests."""
        return self.posterior(F.pad(x, (0, -x.shape[-1] % self.config.hop)))

    def decode(self, z: Tensor, /, noise: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Raw latents [B, D, L] -> rolls [B, C, L·hop] of probabilities, velocities and tempos.

        Raises:
            UsageError: noise or steps are given: it decodes in one pass.
        """
        self.one_pass(noise, steps)
        return roll_of_logits(self.decoder(z))


def roll_of_logits(logits: Tensor) -> Tensor:
    """What a decoder says [B, C, T] as a roll: probabilities and velocities in [0, 1], tempos in octaves."""
    roll = logits.sigmoid()
    roll[:, Channels.TEMPO] = logits[:, Channels.TEMPO].clamp(-FASTEST, FASTEST)
    return roll


def transposed(roll: Tensor, semitones: Tensor) -> Tensor:
    """Rolls [B, C, T], each moved by so many semitones [B]; what leaves the keys is lost."""
    key = torch.arange(KEYS, device=roll.device) - semitones[:, None]  # [B, K]: where each key's row comes from
    inside = ((key >= 0) & (key < KEYS))[..., None]
    rows = key.clamp(0, KEYS - 1)[..., None].expand(-1, -1, roll.shape[-1])
    moved = [roll[:, block].gather(1, rows) * inside for block in (Channels.ONSET, Channels.HOLD, Channels.VELOCITY)]
    return torch.cat([*moved, roll[:, Channels.VELOCITY.stop :]], dim=1)
