"""A bundle made ready to sample from: new music, and music made of what there is.

Latents are normalised, [1, D, L], unless they are called raw; audio is [C, T] at the model's rate, on the CPU.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musicldm import models
from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_pieces, encode_long
from musicldm.conditions.base import Conditions
from musicldm.core import bundle
from musicldm.core.config import from_dict, to_dict
from musicldm.core.devices import autocast, out_of_memory, pick_device, pick_precision
from musicldm.core.errors import BundleError, CapacityError, DataError, MismatchError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.seeding import derive
from musicldm.generators.diffusion.model import Diffusion, DiffusionConfig
from musicldm.latents.statistics import LatentStatistics
from musicldm.noise.guidance import guided, keeping, windowed
from musicldm.noise.samplers import Denoise, Noise
from musicldm.noise.schedule import NoiseLevel
from musicldm.sampling.options import Sampling, pick_sampler, shares
from musicldm.sampling.postprocess import after, crossfade, finite, leading_over, limited, lowered, passing, slerp

Span = tuple[float, float]

SHORTEST_WINDOW = 16.0
"""Seconds that are denoised at once even by a model that was trained on shorter crops."""
STRETCH = 1.15
"""How much longer a window of one's own choice may be where fewer are needed for it: little is then made twice."""
OVERLAP = 0.25
"""Of a window: what it shares with the one before."""
FADE = 0.02
"""Seconds of a cross-fade between what was there and what is made."""
LOOK_AHEAD = 0.01
"""Seconds over which the gain falls before a peak."""
DECODED = 512
"""Latent frames of a piece that are decoded at once, at most."""
CODED = 1024
"""Latent frames of a sound that go through the VAE at once, where it goes through whole."""


def generator_component(diffusion: Diffusion, statistics: LatentStatistics, codec_hash: str) -> bundle.Component:
    """A denoiser as a component of a bundle, with the scale of its latents and the codec that they belong to."""
    config = {**to_dict(diffusion.config), "statistics": statistics.to_dict(), "codec": codec_hash}
    return bundle.Component("diffusion", config, diffusion.state_dict())


def _unheard(text: str) -> None:
    """For someone who does not listen."""


class Generator:
    """A VAE and a denoiser that were made for each other.

    Every way takes the fields of `Sampling` as keywords, and `progress`, which hears how many denoising steps are done.
    On a CPU its result is a function of its arguments and of nothing else.

    Args:
        source: a bundle with both.
        device: where to compute, as `pick_device` takes it.
        precision: of the denoiser, as `pick_precision` takes it.
        announce: hears a sentence where the memory does not suffice and windows become shorter.

    Raises:
        BundleError: a part is missing or damaged.
        MismatchError: the denoiser was trained on another VAE's latents.
    """

    def __init__(
        self,
        source: bundle.Bundle,
        device: str = "auto",
        precision: str = "auto",
        announce: Callable[[str], None] = _unheard,
    ) -> None:
        component = source.component("generator")
        try:
            about = dict(component.config)
            statistics = LatentStatistics.from_dict(about.pop("statistics"))
            codec_hash = about.pop("vae" if "vae" in about else "codec")  # format 1 called it so
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                "The bundle does not say how its latents are scaled.",
                bundle.REPAIR_HINT,
            ) from error
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.announce = announce
        self.name, self.training = source.name, source.training("generator")
        self.hash = component.digest  # which names the VAE, too
        self.statistics = statistics
        self.vae = VAE.from_bundle(source).to(self.device)
        if self.vae.weights_hash != codec_hash:
            raise MismatchError(
                f"The denoiser of {source.name} was trained on the latents of another VAE.",
                bundle.REPAIR_HINT,
            )
        self.diffusion = Diffusion(from_dict(DiffusionConfig, about))
        bundle.fill(self.diffusion, component)
        self.diffusion.eval().requires_grad_(False).to(self.device)
        # What the memory holds, as far as that is known.
        self._most: int | None = None  # frames that are denoised at once
        self._together = 1 if self.device.type == "cpu" else 8  # windows; a CPU gains nothing from several
        self._coded = CODED  # frames that go through the VAE at once

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: str = "auto",
        precision: str = "auto",
        announce: Callable[[str], None] = _unheard,
    ) -> Generator:
        """From whatever `models.find` takes: a bundle's folder, a run's, a model's name."""
        return cls(bundle.read(models.find(path)), device, precision, announce)

    @property
    def sample_rate(self) -> int:
        return self.vae.config.sample_rate

    @property
    def channels(self) -> int:
        """Of the audio."""
        return self.vae.config.audio_channels

    @property
    def artists(self) -> tuple[str, ...]:
        """Whom it can be asked for."""
        conditions = self.diffusion.config.conditions
        return conditions.artists if conditions.by_artist else ()

    def provenance(self) -> dict[str, Any]:
        """Whose music the denoiser was trained on: how many tracks, the 50 most frequent artists, the licences."""
        tracks = [track for track in self.training.tracks if track.split == "train"]
        artists = Counter(track.artist for track in tracks)
        licences = Counter(str(track.provenance.get("licence") or "unknown") for track in tracks)
        return {
            "tracks": len(tracks),
            "artists": {name: count for name, count in artists.most_common(50)},
            "licences": dict(licences.most_common(50)),
        }

    def samples(self, seconds: float) -> int:
        """Samples of a piece of so many seconds.

        Raises:
            UsageError: there would be none, or no end of them.
        """
        samples = seconds * self.sample_rate
        if not 0.5 < samples < 2**53:
            raise UsageError(f"{seconds:g} seconds cannot be sampled.", "Such as --seconds 30.")
        return round(samples)

    def frames(self, seconds: float) -> int:
        """Latent frames that cover so many seconds."""
        return max(1, -(-round(seconds * self.sample_rate) // self.vae.config.hop))

    def noise(self, seed: int, take: int, frames: int, window: int = 0) -> tuple[Tensor, Noise]:
        """Where a window of a take starts, [1, D, L], and where its further noise comes from.

        Drawn on the CPU, so that the same seed means the same noise on every device.
        """
        address: tuple[int | str, ...] = (seed, "take", take, "window", window) if window else (seed, "take", take)
        generator = torch.Generator().manual_seed(derive(*address))

        def fresh(x: Tensor) -> Tensor:
            return torch.randn(x.shape, generator=generator).to(x)

        return fresh(torch.empty(1, self.vae.config.latent_channels, frames, device=self.device)), fresh

    # ---- Ways to make music ----------------------------------------------------------------------------------------

    def sample(self, seconds: float, **options: Any) -> Tensor:
        """One new take, [C, T], never beyond full scale.

        Raises:
            UsageError: an option that makes no sense, or no length at all.
            NotFoundError: an artist whom the model does not know.
            CapacityError: the memory does not hold even a short window.
        """
        return torch.cat(list(self.stream(seconds, **options)), dim=1)

    def stream(self, seconds: float, progress: Progress = silent, **options: Any) -> Iterator[Tensor]:
        """`sample`, piece by piece [C, n], in memory that does not depend on the length.

        Windows are made one after another: each keeps the end of the last and goes on from it. A take of one window is
        lowered as a whole where it would clip; a longer one has its peaks limited.
        """
        how = self._asked(options)
        samples, frames = self.samples(seconds), self.frames(seconds)
        raw = (self._raw(z)[0] for z in self._continued(frames, how, progress))
        whole, (_, first) = frames <= self._window(how, STRETCH), self._plan(how, frames)
        return self._decoded(raw, first, frames, 0, samples, lower=whole)

    def latents(self, frames: int, progress: Progress = silent, **options: Any) -> Tensor:
        """One new take of raw latents [D, L]."""
        pieces = list(self._continued(frames, self._asked(options), progress))
        return self._raw(torch.cat(pieces, dim=-1))[0]

    def vary(self, audio: Tensor, strength: float, progress: Progress = silent, **options: Any) -> Tensor:
        """Audio [C, T] made anew from `strength` of the way to noise: [C, T]. Near 0 it stays, at 1 it is forgotten.

        Raises:
            UsageError: a strength beyond (0, 1].
            DataError: audio shorter than a latent frame, or that is no numbers.
        """
        start = self._start(strength)
        how = self._asked(options, start)
        z = self._denoised(how, self.encode(audio), start=start, progress=progress)
        return self.decode(self._raw(z)[0])[:, : audio.shape[1]]

    def infill(self, audio: Tensor, spans: Sequence[Span], progress: Progress = silent, **options: Any) -> Tensor:
        """Audio [C, T] with the spans, in seconds, made anew: [C, T].

        All that lies further than FADE from a span is kept to the last bit.

        Raises:
            UsageError: no spans, or such as are reversed, lie outside, overlap, or leave nothing.
            DataError: as `vary`.
        """
        how, hop = self._asked(options), self.vae.config.hop
        places = self._places(spans, audio.shape[1])
        known = self.encode(audio)
        mask = torch.ones(1, 1, known.shape[-1], dtype=torch.bool, device=self.device)
        for first, last in places:
            mask[..., first // hop : -(-last // hop)] = False
        made, context = audio.clone(), self._window(how) // 2
        groups = _grouped(places, 2 * context * hop)  # far from the spans there is nothing to do
        for number, group in enumerate(groups):
            begin = max(0, group[0][0] // hop - context)
            end = min(known.shape[-1], -(-group[-1][1] // hop) + context)
            z = self._denoised(
                how,
                known[..., begin:end],
                mask[..., begin:end],
                window=number,
                repeats=how.resample,
                progress=_part(progress, number, len(groups)),
            )
            waves = self._waves([self._raw(z)[0]], end - begin)
            decoded = torch.cat(list(limited(waves, round(LOOK_AHEAD * self.sample_rate))), dim=1)
            for first, last in group:
                self._replace(made, decoded, begin * hop, first, last)
        return made

    def extend(self, audio: Tensor, seconds: float, progress: Progress = silent, **options: Any) -> Iterator[Tensor]:
        """Audio [C, T] and then so many seconds more, piece by piece [C, n]; all but its last FADE is kept as it is.

        It begins to come once the first of what is new is there.

        Raises:
            UsageError, DataError: as `infill` and `sample`.
        """
        how, hop = self._asked(options), self.vae.config.hop
        new = self.samples(seconds)
        held = min(audio.shape[1] // hop, self._window(how) // 2)  # frames that the first window goes on from
        context = audio[:, audio.shape[1] - held * hop :]
        # Without a mirror beyond its end, the encoder would hear the music stop there.
        mirror = context.flip(1)[:, : self.vae.receptive_field * hop]
        known = self.encode(torch.cat([context, mirror], dim=1))[..., :held]
        frames = -(-new // hop)
        raw = (self._raw(z)[0] for z in self._continued(frames, how, progress, known))
        fade = min(round(FADE * self.sample_rate), context.shape[1])
        pieces = itertools.chain([self._raw(known)[0]], raw)
        _, first = self._plan(how, held + frames)
        made = self._decoded(pieces, first, held + frames, held * hop - fade, fade + new)
        kept, old = audio[:, : audio.shape[1] - fade], audio[:, audio.shape[1] - fade :]
        return after(kept, leading_over(old, made))

    def loop(self, seconds: float, progress: Progress = silent, **options: Any) -> Tensor:
        """New music whose end goes on with its beginning, [C, T]: as many whole latent frames as cover the seconds.

        Denoised in windows around the circle, and decoded with the end before the beginning.
        """
        how, config = self._asked(options), self.vae.config
        frames = -(-self.samples(seconds) // config.hop)
        z = self._denoised(how, frames=frames, circular=True, progress=progress)
        margin = self.vae.context
        around = torch.arange(-margin, frames + margin, device=z.device) % frames
        audio = torch.cat(list(self._waves([self._raw(z)[0][:, around]], len(around))), dim=1)
        begin, end = margin * config.hop, (margin + frames) * config.hop
        fade = min(round(FADE * self.sample_rate), frames * config.hop)
        loop = audio[:, begin:end].clone()
        # The attention of the VAE has a grid, which begins anew; what would have followed leads over to it.
        loop[:, :fade] = crossfade(audio[:, end : end + fade], loop[:, :fade])
        return lowered(loop)

    def between(
        self, a: Tensor, b: Tensor, share: float, strength: float = 0.6, progress: Progress = silent, **options: Any
    ) -> Tensor:
        """Between audio a and b, each [C, T], as far as the shorter goes: share 0 is near a, share 1 near b.

        Their latents are mixed along the great circle, get the same noise, and are made anew (Ho et al. 2020, §4.3).

        Raises:
            UsageError, DataError: as `vary`.
        """
        start = self._start(strength)
        how = self._asked(options, start)
        samples = min(a.shape[1], b.shape[1])
        known = slerp(self.encode(a[:, :samples]), self.encode(b[:, :samples]), share)
        z = self._denoised(how, known, start=start, progress=progress)
        return self.decode(self._raw(z)[0])[:, :samples]

    def between_seeds(
        self, seeds: tuple[int, int], seconds: float, share: float, progress: Progress = silent, **options: Any
    ) -> Tensor:
        """Between the new takes of two seeds, [C, T]: all noise is on the great circle between theirs."""
        how, samples = self._asked(options), self.samples(seconds)

        def noise(frames: int) -> tuple[Tensor, Noise]:
            (a, fresh_a), (b, fresh_b) = (self.noise(seed, how.take, frames) for seed in seeds)
            return slerp(a, b, share), lambda x: slerp(fresh_a(x), fresh_b(x), share)

        z = self._denoised(how, frames=self.frames(seconds), noise=noise, progress=progress)
        return self.decode(self._raw(z)[0])[:, :samples]

    # ---- Audio and latents -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [C, T] -> normalised latents [1, D, L] by the posterior's mode.

        Raises:
            DataError: it is shorter than a latent frame, has other channels, or is no numbers.
            CapacityError: the memory does not hold even a short piece of it.
        """
        samples = audio.shape[1]
        if samples < self.vae.config.hop:
            least = self.vae.config.hop / self.sample_rate
            raise DataError("The audio is shorter than a latent frame.", f"It takes {least:.3g} s at least.")
        if len(audio) != self.channels:
            raise DataError(f"The audio has {len(audio)} channels; the model has {self.channels}.", "Convert it.")
        if not torch.isfinite(audio).all():
            raise DataError("The audio holds samples that are not finite numbers.", "Mend or export it again.")
        pieces = encode_long(self.vae, lambda a, b: audio[:, a:b], samples, self._coded, self._shorter)
        means = [mean for mean, _ in pieces]
        return self.statistics.normalise(torch.cat(means, dim=-1))[None].to(self.device)

    def decode(self, z: Tensor) -> Tensor:
        """Raw latents [D, L] -> a waveform [C, L·hop], lowered as a whole where it would clip.

        Raises:
            DataError: latents or output are not finite.
            CapacityError: the memory does not hold even a short piece of it.
        """
        return lowered(torch.cat(list(self._waves([z], z.shape[-1], CODED)), dim=-1))

    def _decoded(
        self, raw: Iterable[Tensor], first: int, frames: int, skipped: int, samples: int, lower: bool = False
    ) -> Iterator[Tensor]:
        """Raw latents, `frames` in all, to `samples` samples after `skipped` ones, never beyond full scale.

        Args:
            first: how many frames come first: enough for the first piece.
        """
        at_once = max(1, min(DECODED, first - 2 * self.vae.context))
        cut = passing(self._waves(raw, frames, at_once), skipped, samples)
        if lower:
            return iter([lowered(torch.cat(list(cut), dim=1))])
        return limited(cut, round(LOOK_AHEAD * self.sample_rate))

    def _waves(self, raw: Iterable[Tensor], frames: int, at_once: int = DECODED) -> Iterator[Tensor]:
        """Raw latents [D, l], `frames` in all, to audio; no more at once than the memory holds."""
        return finite(decode_pieces(self.vae, raw, frames, min(at_once, self._coded), self._shorter))

    def _shorter(self, frames: int) -> None:
        """Take no more frames through the VAE at once from now on; said only once."""
        if self._coded == CODED:
            self.announce("The memory does not suffice: shorter pieces go through the VAE at once.")
        self._coded = frames

    def _raw(self, z: Tensor) -> Tensor:
        return self.statistics.denormalise(z.float())  # normalised until here, raw from here

    # ---- Denoising -------------------------------------------------------------------------------------------------

    def _asked(self, options: dict[str, Any], start: float | None = None) -> Sampling:
        """How to sample, and all of it checked before anything is computed.

        Raises:
            UsageError, NotFoundError: as `Sampling`, `_told`, `_levels`, and for a sampler that cannot begin there.
        """
        how = Sampling(**options)
        self._told(how)
        pick_sampler(how.sampler, how.eta, self._levels(how, start))
        return how

    def _levels(self, how: Sampling, start: float | None = None) -> list[NoiseLevel]:
        """The noise levels of a take that begins at a time; None: N - 1.

        Raises:
            UsageError: more steps than the process has, or a spacing that it does not have from there.
        """
        schedule = self.diffusion.schedule
        schedule.levels(how.steps)  # which counts them, before they become fewer
        steps = how.steps if start is None else min(how.steps, int(start) + 1)
        return schedule.levels(steps, how.spacing, start)

    def _window(self, how: Sampling, stretch: float = 1.0) -> int:
        """Frames that are denoised at once, a whole number of what the network takes.

        Args:
            stretch: how much longer a window may be where nobody has named one.
        """
        trained = self.training.crop_seconds
        # A U-Net knows no positions: in windows twice as long as its crops it loses nothing (benchmarks/README.md).
        usual = max(SHORTEST_WINDOW, 2 * trained if self.diffusion.config.denoiser == "unet" else trained)
        frames = self.frames(how.window or stretch * usual)
        frames = frames if self._most is None else min(frames, self._most)
        multiple = self.diffusion.config.network.multiple
        return max(2, multiple, frames // multiple * multiple)

    def _plan(self, how: Sampling, frames: int) -> tuple[int, int]:
        """In how many windows one after another to make so many frames, and the frames of each, all alike."""
        multiple = self.diffusion.config.network.multiple
        longest = frames + -frames % multiple if how.joint else self._window(how, STRETCH)
        count = 1 + max(0, -(-(frames - longest) // (longest - int(OVERLAP * longest))))
        length = math.ceil(frames / (count - (count - 1) * OVERLAP))
        return count, min(longest, length + -length % multiple)

    @torch.inference_mode()
    def _continued(
        self, frames: int, how: Sampling, progress: Progress, known: Tensor | None = None
    ) -> Iterator[Tensor]:
        """So many new frames in windows [1, D, l]. Each keeps the end of the last, and the first that of `known`."""
        done, number, tail = 0, 0, known
        while done < frames:
            kept = 0 if tail is None else min(tail.shape[-1], self._window(how) // 2)
            count, length = self._plan(how, kept + frames - done)
            report = _part(progress, number, number + count)
            if tail is None:
                z = self._denoised(how, frames=length, window=number, progress=report)
            else:
                held = torch.nn.functional.pad(tail[..., tail.shape[-1] - kept :], (0, length - kept))
                mask = (torch.arange(length, device=self.device) < kept)[None, None]
                z = self._denoised(how, held, mask, window=number, repeats=how.resample, progress=report)
            yield z[..., kept : kept + frames - done]
            done += length - kept
            tail = z[..., -max(1, int(OVERLAP * length)) :]
            number += 1

    @torch.inference_mode()
    def _denoised(
        self,
        how: Sampling,
        known: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        frames: int = 0,
        start: float | None = None,
        window: int = 0,
        noise: Callable[[int], tuple[Tensor, Noise]] | None = None,
        circular: bool = False,
        repeats: int = 1,
        progress: Progress = silent,
    ) -> Tensor:
        """Latents of `frames` frames, or of as many as are known.

        Args:
            known: what it starts from; with a mask [1, 1, L], what it keeps where that is true.
            start: the time to begin at; None: N - 1.
            window: which of the take's windows this is: each has its own noise.
            noise: for so many frames, in place of the take's; see `noise`.
        """
        levels = self._levels(how, start)
        steps = len(levels) - 1
        sampler = pick_sampler(how.sampler, how.eta, levels, repeats)
        asked = guided(self.diffusion, self._told(how), how.guidance, how.guidance_interval, how.guidance_rescale)
        wanted = frames = frames if known is None else known.shape[-1]
        if known is None and not circular:  # what the network would fill up with zeros is made as well, and cut off
            frames += -frames % self.diffusion.config.network.multiple
        while True:
            x, fresh = noise(frames) if noise else self.noise(how.seed, how.take, frames, window)
            if known is not None:
                noisy = levels[0].mix(known, x)
                x = noisy if mask is None else torch.where(mask, noisy, x)
            width = frames if frames <= self._window(how, STRETCH) else self._window(how)
            denoise: Denoise = windowed(asked, width, int(OVERLAP * width), self._together, circular)
            if known is not None and mask is not None:
                denoise = keeping(denoise, known, mask)
            try:
                with autocast(self.precision, self.device):
                    made = sampler(
                        denoise, x, levels, fresh, lambda i, _: progress(i + 1, steps, f"step {i + 1} of {steps}")
                    )
                    return made[..., :wanted]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            self._make_do(width, self._together if circular or frames > width else 1)

    def _make_do(self, frames: int, together: int) -> None:
        """Denoise half as much at once from now on: half as many windows together, or else windows half as long.

        Raises:
            CapacityError: they would be too short to be of use.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if together > 1:
            self._together = together // 2
            return
        self._most = frames // 2
        seconds = self._most * self.vae.config.hop / self.sample_rate
        if self._most < 8:
            raise CapacityError("The memory does not hold even a short window.", "Close other programs, or use a CPU.")
        self.announce(f"The memory does not suffice: going on in windows of {seconds:.3g} s.")

    def _told(self, how: Sampling) -> Conditions:
        """What the network is told, of one item.

        Raises:
            UsageError: the model knows no such condition, or guidance has nothing to compare with.
            NotFoundError: an artist whom it does not know.
        """
        conditions = self.diffusion.config.conditions
        told = Conditions.none(1, max(1, len(conditions.artists)), self.device)
        if how.artist:
            told = replace(told, artists=told.artists.new_tensor([shares(how.artist, self.artists)]))
        if how.position is not None:
            if not conditions.by_position:
                raise UsageError("This model was trained without positions.", "Leave --position out.")
            told = replace(told, position=told.position.new_tensor([how.position]))
        if how.guidance != 1 and not how.artist and how.position is None:
            hint = "Add --artist or --position." if self.artists else "This model knows no artists: leave it out."
            raise UsageError("Guidance exaggerates what the model is told, and it is told nothing.", hint)
        return told

    def _start(self, strength: float) -> float:
        """The time to begin at."""
        if not 0 < strength <= 1:
            raise UsageError(f"A strength of {strength:g} is not above 0 and up to 1.", "Such as 0.6.")
        return strength * (len(self.diffusion.schedule) - 1)

    # ---- Infilling -------------------------------------------------------------------------------------------------

    def _places(self, spans: Sequence[Span], samples: int) -> list[tuple[int, int]]:
        """Spans in seconds as samples, in order.

        Raises:
            UsageError: none, or such as are reversed, lie outside, overlap, or leave nothing.
        """
        seconds = samples / self.sample_rate
        for first, last in spans:
            if not first < last:
                raise UsageError(f"The span from {first:g} to {last:g} s has no length.", "Name its start first.")
            if first < 0 or last > seconds + 0.01:
                raise UsageError(
                    f"The span from {first:g} to {last:g} s lies outside the file.", f"It is {seconds:.2f} s long."
                )
        ordered = sorted(spans)
        for (_, end), (begin, _) in itertools.pairwise(ordered):
            if begin < end:
                raise UsageError(f"Two spans overlap from {begin:g} s on.", "Make one of them.")
        places = [(round(a * self.sample_rate), min(samples, round(b * self.sample_rate))) for a, b in ordered]
        if not 0 < sum(last - first for first, last in places) < samples:
            what = "The spans are the whole file" if places else "There are no spans"
            raise UsageError(f"{what}: there is nothing to fill in.", "Name a part of it with --from and --to.")
        return places

    def _replace(self, made: Tensor, decoded: Tensor, offset: int, first: int, last: int) -> None:
        """Put samples first to last of what was decoded from sample `offset` on into `made`, with a fade around it."""
        fade = round(FADE * self.sample_rate)
        rising = slice(max(offset, first - fade), first)
        falling = slice(last, min(made.shape[1], offset + decoded.shape[1], last + fade))
        for span in (rising, slice(first, last), falling):
            new = decoded[:, span.start - offset : span.stop - offset]
            if span is rising:
                new = crossfade(made[:, span], new)
            elif span is falling:
                new = crossfade(new, made[:, span])
            made[:, span] = new


def _grouped(places: Sequence[tuple[int, int]], gap: int) -> list[list[tuple[int, int]]]:
    """Places with less than `gap` between them in one group."""
    groups: list[list[tuple[int, int]]] = []
    for place in places:
        if groups and place[0] - groups[-1][-1][1] < gap:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """The progress of one of several equal parts."""

    def report(done: float, total: float | None, text: str = "") -> None:
        whole = total or 1.0
        words = text if parts == 1 else f"window {number + 1} of {parts}, {text}"
        progress(number * whole + done, parts * whole, words)

    return report
