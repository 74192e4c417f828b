"""How each task of `tasks.py` is run.

Latents are normalised, [1, D, L], unless they are called raw; audio is [C, T] at the model's rate, on the CPU. Whatever
can be refused is refused at the call, before anything is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from musicldm.core.errors import UsageError
from musicldm.core.progress import Progress, share
from musicldm.noise.interpolation import slerp
from musicldm.sampling.original import aligned, fitted, fitted_pieces
from musicldm.sampling.pipeline import Pipeline
from musicldm.sampling.postprocess import after, crossfade, crossfade_into, cut
from musicldm.sampling.request import Request
from musicldm.sampling.tasks import (
    Extend,
    Form,
    Infill,
    Interpolate,
    InterpolateSeeds,
    Loop,
    New,
    Seconds,
    Vary,
    samples_of,
)
from musicldm.sampling.windowing import Span, frames_of, gaps, next_window

FADE = 0.02
"""Seconds of a cross-fade between what was there and what is made."""


def new(task: New, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """Windows one after another: each keeps the end of the last and goes on from it.

    A take of one window is made softer as a whole where it would clip; a longer one has its peaks limited.
    """
    pipeline.check(task, request)
    samples = samples_of(task.seconds, pipeline.spec.rate)
    frames = pipeline.spec.frames(samples)
    size = pipeline.window_size(request)
    first = next_window(0, frames, 0, 0, size, request.joint)
    raw = (pipeline.raw(z) for z in continued(pipeline, request, frames, progress))
    return pipeline.coder.decode_stream(raw, first.length, frames, 0, samples, whole=frames <= size.longest)


def vary(task: Vary, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """From a noisy version of what there is."""
    pipeline.check(task, request, task.strength)
    known = pipeline.encode(task.audio)
    z = pipeline.generate(request, progress, known.shape[-1], known=known, strength=task.strength)
    return iter([pipeline.decode(pipeline.raw(z))[:, : task.audio.shape[1]]])


def infill(task: Infill, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """Each gap with its surroundings; far from the spans there is nothing to do."""
    pipeline.check(task, request)
    audio, hop, rate = task.audio, pipeline.spec.hop, pipeline.spec.rate
    ours, form = Form(rate, pipeline.spec.media_channels), task.form(pipeline.spec)
    spans = checked_spans(task.spans, audio.shape[1], rate)
    known = pipeline.encode(audio)
    frames = known.shape[-1]
    mask = torch.ones(1, 1, frames, dtype=torch.bool, device=pipeline.device)
    for span in spans:
        first, last = frames_of(span, hop)
        mask[..., first:last] = False
    made = (task.original.audio if task.original else audio).clone()
    there = dict(zip(spans, checked_spans(task.spans, made.shape[1], form.rate), strict=True))
    # Half a window on either side: a short gap with what surrounds it is then about one window.
    found = gaps(spans, hop, frames, pipeline.window_size(request).usual // 2)
    for number, gap in enumerate(found):
        within = slice(gap.begin, gap.end)
        z = pipeline.generate(
            request,
            share(progress, number, len(found), "window"),
            gap.end - gap.begin,
            known=known[..., within],
            mask=mask[..., within],
            window=number,
        )
        decoded = pipeline.coder.decode_limited(pipeline.raw(z))
        fresh, begin = fitted(decoded, gap.begin * hop, ours, form)
        for span in gap.spans:
            _replace(made, fresh, begin, there[span], round(FADE * form.rate))
    return iter([made])


def extend(task: Extend, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """New windows, the first of which keeps the end of what there is."""
    pipeline.check(task, request)
    audio, spec, form = task.audio, pipeline.spec, task.form(pipeline.spec)
    whole = task.original.audio if task.original else audio
    samples = samples_of(task.seconds, form.rate)
    size = pipeline.window_size(request)
    held = min(audio.shape[1] // spec.hop, size.usual // 2)  # frames that the first window goes on from
    start = audio.shape[1] - held * spec.hop
    context = audio[:, start:]
    # Without a mirror image beyond its end, the encoder would hear the music stop there.
    mirror = context.flip(1)[:, : pipeline.codec.receptive_field * spec.hop]
    known = pipeline.encode(torch.cat([context, mirror], dim=1))[..., :held]
    # What is made begins a fade before the end, at a sample that both rates have.
    begin, there = aligned(audio.shape[1] - min(round(FADE * spec.rate), context.shape[1]), start, spec.rate, form.rate)
    fade = min(round(FADE * form.rate), whole.shape[1] - there)
    new = samples_of(task.seconds, spec.rate)
    frames = spec.frames(new)
    first = next_window(0, frames, held, 0, size, request.joint)
    raw = (pipeline.raw(z) for z in continued(pipeline, request, frames, progress, known))
    made = pipeline.coder.decode_stream(
        itertools.chain([pipeline.raw(known)], raw),
        first.length,
        held + frames,
        begin - start,
        audio.shape[1] - begin + new,
    )
    ours = Form(spec.rate, spec.media_channels)
    if form != ours:
        made = fitted_pieces(made, ours, form)
    made = cut(made, whole.shape[1] - fade - there, fade + samples)
    kept, old = whole[:, : whole.shape[1] - fade], whole[:, whole.shape[1] - fade :]
    return after(kept, crossfade_into(old, made))


def loop(task: Loop, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """In windows around the circle, and decoded with the end before the beginning."""
    pipeline.check(task, request)
    hop, context = pipeline.spec.hop, pipeline.codec.context
    frames = pipeline.spec.frames(samples_of(task.seconds, pipeline.spec.rate))
    z = pipeline.generate(request, progress, frames, circular=True)
    # The codec must hear the end before the beginning, or the join would sound like a start.
    around = torch.arange(-context, frames + context, device=z.device) % frames
    audio = torch.cat(list(pipeline.coder.decode_pieces([pipeline.raw(z)[:, around]], len(around))), dim=1)
    begin, end = context * hop, (context + frames) * hop
    fade = min(round(FADE * pipeline.spec.rate), frames * hop)
    made = audio[:, begin:end].clone()
    # Windows of a codec may lie on a grid, which begins anew with the loop: what would have followed fades over to it.
    made[:, :fade] = crossfade(audio[:, end : end + fade], made[:, :fade])
    return iter([pipeline.coder.within_scale(made)])


def interpolate(task: Interpolate, pipeline: Pipeline, request: Request, progress: Progress) -> Iterator[Tensor]:
    """A variation of what lies between two sounds."""
    pipeline.check(task, request, task.strength)
    samples = min(task.a.shape[1], task.b.shape[1])
    a, b = (pipeline.encode(audio[:, :samples]) for audio in (task.a, task.b))
    known = slerp(a, b, task.weight)
    z = pipeline.generate(request, progress, known.shape[-1], known=known, strength=task.strength)
    return iter([pipeline.decode(pipeline.raw(z))[:, :samples]])


def interpolate_seeds(
    task: InterpolateSeeds, pipeline: Pipeline, request: Request, progress: Progress
) -> Iterator[Tensor]:
    """A new take from noise between that of two seeds."""
    pipeline.check(task, request)
    samples = samples_of(task.seconds, pipeline.spec.rate)
    frames = pipeline.spec.frames(samples)
    z = pipeline.generate(request, progress, frames, seeds=task.seeds, weight=task.weight)
    return iter([pipeline.decode(pipeline.raw(z))[:, :samples]])


# ---- What tasks share ----------------------------------------------------------------------------------------------


def continued(
    pipeline: Pipeline, request: Request, frames: int, progress: Progress, known: Tensor | None = None
) -> Iterator[Tensor]:
    """So many new frames in windows [1, D, l]. Each keeps the end of the last, and the first that of `known`.

    The plan is made anew for each window: by then, the memory may have turned out to hold less.
    """
    done, number, tail = 0, 0, known
    while done < frames:
        before = 0 if tail is None else tail.shape[-1]
        window = next_window(done, frames, before, number, pipeline.window_size(request), request.joint)
        report = share(progress, number, window.count, "window")
        if tail is None:
            z = pipeline.generate(request, report, window.length, window=number)
        else:
            # Only the kept frames matter: the mask leaves out what is filled up here.
            held = F.pad(tail[..., before - window.kept :], (0, window.length - window.kept))
            mask = (torch.arange(window.length, device=tail.device) < window.kept)[None, None]
            z = pipeline.generate(request, report, window.length, known=held, mask=mask, window=number)
        yield z[..., window.kept : window.kept + window.used]
        done, number, tail = done + window.used, number + 1, z[..., -window.tail :]


def checked_spans(spans: Sequence[Seconds], samples: int, rate: int) -> list[Span]:
    """Spans in seconds as samples, in order.

    Raises:
        UsageError: none, or such as are reversed, lie outside, overlap, or leave nothing.
    """
    seconds = samples / rate
    for first, last in spans:
        if not first < last:
            raise UsageError(
                f"The span from {first:g} to {last:g} s has no length.", "The start must come before the end."
            )
        # A person reads the length off a player, which rounds it.
        if first < 0 or last > seconds + 0.01:
            raise UsageError(
                f"The span from {first:g} to {last:g} s lies outside the file.", f"It is {seconds:.2f} s long."
            )
    ordered = sorted(spans)
    for (_, end), (begin, _) in itertools.pairwise(ordered):
        if begin < end:
            raise UsageError(f"Two spans overlap from {begin:g} s on.", "Merge them into one.")
    places = [(round(a * rate), min(samples, round(b * rate))) for a, b in ordered]
    if not 0 < sum(last - first for first, last in places) < samples:
        what = "The spans are the whole file" if places else "There are no spans"
        raise UsageError(f"{what}: there is nothing to fill in.", "Give only a part of it, with its beginning and end.")
    return places


def _replace(made: Tensor, decoded: Tensor, offset: int, span: Span, fade: int) -> None:
    """Put a span of samples of what was decoded from sample `offset` on into `made`, with a fade around it."""
    first, last = span
    rising = slice(max(offset, first - fade), first)
    falling = slice(last, min(made.shape[1], offset + decoded.shape[1], last + fade))
    for part in (rising, slice(first, last), falling):
        fresh = decoded[:, part.start - offset : part.stop - offset]
        if part is rising:
            fresh = crossfade(made[:, part], fresh)
        elif part is falling:
            fresh = crossfade(fresh, made[:, part])
        made[:, part] = fresh
