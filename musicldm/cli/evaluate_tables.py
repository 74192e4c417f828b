"""The results of `musicldm evaluate` as rows of cells and as lines, for the terminal and for pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musicldm.evaluate.codec import CodecResult
    from musicldm.evaluate.estimates import Estimate
    from musicldm.evaluate.levels import Level
    from musicldm.evaluate.memorization import Match
    from musicldm.evaluate.note_rates import Spread
    from musicldm.evaluate.samples import SamplesResult

Rows = list[list[str]]

# ---- The codec -----------------------------------------------------------------------------------------------------

# What is heard comes first; what compares sample by sample, last.
_CODEC_FIGURES = {
    "mel": ("mel distance", 3),
    "mel_to_silence": ("mel L1 over silence's", 3),
    "stft": ("STFT distance", 3),
    "onset_f1": ("note onsets, F1", 3),
    "onset_precision": ("precision", 3),
    "onset_recall": ("recall", 3),
    "loudness": ("loudness error, LU", 2),
    "si_sdr": ("SI-SDR, dB", 2),
    "l1": ("L1 distance", 4),
    "l1_of_silence": ("of silence", 4),
    "l1_to_silence": ("ratio", 3),
}
_OF_SAMPLES = {"si_sdr", "l1", "l1_of_silence", "l1_to_silence"}
_OF_NOTES = {"onset_f1", "onset_precision", "onset_recall"}


def codec_lines(result: CodecResult) -> list[str]:
    """All that is printed about a codec."""
    return [
        *_aligned(track_rows(result)),
        "",
        codec_sentence(result),
        *_aligned(overall_rows(result)),
        "",
        "Latents",
        *_left(latent_rows(result)),
    ]


def track_rows(result: CodecResult) -> Rows:
    """Its figures by track; the first row names them."""
    shown = _shown(result)
    rows = [["track", "seconds", *(title for title, _ in shown.values())]]
    for track in result.tracks:
        notes = vars(track.notes) if track.notes is not None else {}
        figures = {f"onset_{name}": value for name, value in notes.items()}
        figures |= {**vars(track.figures), "loudness": track.loudness}
        cells = (number(figures[name], digits) for name, (_, digits) in shown.items())
        rows.append([_shortened(track.name), f"{track.figures.seconds:.1f}", *cells])
    return rows


def _shown(result: CodecResult) -> dict[str, tuple[str, int]]:
    """The figures that say something of this codec, each with its name and digits."""
    left_out = (set() if result.keeps_phase else _OF_SAMPLES) | (_OF_NOTES if result.transcriber is None else set())
    return {name: shown for name, shown in _CODEC_FIGURES.items() if name not in left_out}


def codec_sentence(result: CodecResult) -> str:
    """Which codec and which tracks the figures are of."""
    count = f"{len(result.tracks)} track{'s' * (len(result.tracks) > 1)}"
    codec = f"Codec {result.codec} ({result.codec_hash[:8]})"
    by = f"; notes heard by {result.transcriber}" if result.transcriber is not None else ""
    return f"{codec}, {result.data}: means over {count}, {result.seconds / 60:.1f} min{by}"


def overall_rows(result: CodecResult) -> Rows:
    """Give and mean of each figure."""
    shown = _shown(result).items()
    return [[title, _with_interval(result.overall[name], digits)] for name, (title, digits) in shown]


def latent_rows(result: CodecResult) -> Rows:
    """Give and value of what is known of the latents."""
    noise, channels = result.noise, result.channels
    low, high = min(each.std for each in channels), max(each.std for each in channels)
    dead = f", dead: {', '.join(map(str, result.dead))}" if result.dead else ", none dead"
    return [
        ["elements", f"{result.relative_size:.2%} of the waveform's"],
        ["channels", f"{len(channels)}{dead}"],
        ["KL per element", f"{sum(each.kl for each in channels) / len(channels):.2f} nats"],
        ["standard deviation", f"{low:.2f} to {high:.2f}"],
        ["mel distance", f"{_with_interval(noise.clean, 3)} over {noise.excerpts} excerpts, {noise.seconds:.0f} s"],
        [
            "… with 0.1 σ of noise",
            f"{_with_interval(noise.noisy, 3)}; {number(noise.moved.value, 3)} from the one without",
        ],
    ]


# ---- Samples -------------------------------------------------------------------------------------------------------

_METRICS = {
    "frechet": ("Fréchet distance", 2),
    "frechet_infinity": ("… extrapolated to infinity", 2),
    "mmd": ("MMD²", 4),
    "density": ("density", 2),
    "coverage": ("coverage", 2),
    "two_sample": ("two-sample test", 2),
    "overlap": ("overlap of windows", 3),
    "consistency": ("consistency", 3),
    "variance": ("variance", 3),
}


def samples_lines(result: SamplesResult) -> list[str]:
    """All that is printed about samples."""
    lines = []
    if rows := samples_rows(result):
        lines += _aligned(rows) + remarks(result)
    if result.reference:
        lines += ["", f"Against {result.reference}.", *(f"{name}: {text}." for name, text in result.embeddings.items())]
    lines += ["", levels_sentence(result), *rates_sentence(result)]
    for each in result.samples:
        if each.level.clipped or each.level.silence >= 1:
            lines.append(
                f"{each.name}: {each.level.clipped} samples clipped, longest silence {each.level.silence:.2f} s"
            )
    return lines


def samples_rows(result: SamplesResult) -> Rows:
    """Each figure of the samples beside those of the baselines; the first row names the sets. Empty without figures."""
    if not result.sets[0].figures:
        return []
    rows = [["", "by", *(each.name for each in result.sets)]]
    for figures in zip(*(each.figures for each in result.sets), strict=True):
        title, digits = _METRICS[figures[0].metric]
        rows.append([title, figures[0].embedding, *(_plus_minus(each.estimate, digits) for each in figures)])
    first = [each.figures[0] for each in result.sets]
    return [*rows, ["sounds", "", *(f"{each.sounds} × {each.seconds:.3g} s" for each in first)]]


def remarks(result: SamplesResult) -> list[str]:
    """Reservations about single figures."""
    return [
        f"{_METRICS[each.metric][0].replace('…', 'Fréchet distance')} by {each.embedding}: {each.estimate.note}."
        for each in result.sets[0].figures
        if each.estimate.note
    ]


def levels_sentence(result: SamplesResult) -> str:
    """How loud they are, and whether any of them clips or contains silence."""
    loud = [each.level.rms for each in result.samples if each.level.rms is not None]
    level = f"{sum(loud) / len(loud):.1f} dBFS" if loud else "silence"
    clips = f"{len(result.clipped)} clip" if result.clipped else "none clips"
    silence = f"{len(result.silent)} with a second of silence" if result.silent else "none with a second of silence"
    return f"{len(result.samples)} samples, level {level}; {clips}, {silence}."


def rates_sentence(result: SamplesResult) -> list[str]:
    """How many notes a second they have, and music; nothing without a transcriber."""
    rates = result.note_rates
    if rates is None:
        return []
    lines = [f"Notes a second, heard by {rates.transcriber}: {_spread(rates.samples)}."]
    if rates.music is not None:
        lines.append(f"Music has {_spread(rates.music)} ({rates.words}).")
        lines.append(f"{rates.within} of {rates.samples.sounds} samples lie in the music's middle 90 %.")
    return lines


def level_sentence(level: Level) -> str:
    """The same of one sound."""
    loud = "silence" if level.rms is None else f"{level.rms:.1f} dBFS, peak {level.peak:.2f}"
    clips = f", {level.clipped} samples clipped" if level.clipped else ""
    silence = f", {level.silence:.1f} s of silence" if level.silence >= 1 and level.rms is not None else ""
    return loud + clips + silence


# ---- Memorization -------------------------------------------------------------------------------------------------


def match_line(match: Match) -> str:
    """A match in one line."""
    near = f"{match.as_near} of {match.stretches} held-out stretches as close"
    where = f"{match.sound} at {clock(match.start)} ~ {match.track} at {clock(match.at)}"
    return f"{match.verdict:<7}{match.similarity:.2f}  {where}  ({near})"


def match_rows(matches: tuple[Match, ...]) -> Rows:
    """The same in cells; the first row names them."""
    rows = [["verdict", "similarity", "copied above", "sample", "at", "nearest training passage", "at", "as close"]]
    for match in matches:
        rows.append(
            [
                match.verdict,
                f"{match.similarity:.2f}",
                f"{match.copied_above:.2f}",
                _shortened(match.sound),
                clock(match.start),
                _shortened(match.track),
                clock(match.at),
                f"{match.as_near} of {match.stretches}",
            ]
        )
    return rows


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


# ---- Cells ---------------------------------------------------------------------------------------------------------


def _spread(spread: Spread) -> str:
    return f"median {spread.median:.1f}, middle 90 % {spread.low:.1f} to {spread.high:.1f}"


def number(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _with_interval(estimate: Estimate, digits: int) -> str:
    """A figure and its interval as bounds, which the bootstrap makes uneven."""
    text = number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _plus_minus(estimate: Estimate, digits: int) -> str:
    """A figure and its interval as ±: the jackknife's is even, except where it was cut to what is possible."""
    text = number(estimate.value, digits)
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return text
    return f"{text} ± {max(estimate.value - estimate.low, estimate.high - estimate.value):.{digits}f}"


def _aligned(rows: Rows) -> list[str]:
    """Aligned columns, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _left(rows: Rows) -> list[str]:
    width = max(len(row[0]) for row in rows)
    return [f"{name.ljust(width)}  {text}" for name, text in rows]


def _shortened(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}…{name[1 - most // 2 :]}"
