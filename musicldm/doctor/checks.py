"""A look at the machine and at what one is about to use, before hours of work: each finding with what to do.

What users of such programs meet most is a loss that falls and an output that stays noise. Its causes can all be seen
beforehand: a VAE that is untrained or another one, latents that are not scaled, dead channels, clips shorter than the
crops. Here they are looked for, in under a minute.

Each part is imported where it is examined: one that cannot be imported is a finding, too.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from musicldm.core.errors import MusicLDMError, UsageError
from musicldm.core.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from musicldm.codecs.vae.model import VAE
    from musicldm.core.bundle import Bundle
    from musicldm.latents.store import LatentStore, StoreHeader
    from musicldm.media.audio.manifest import PreparedTrack

Verdict = Literal["ok", "warning", "wrong"]

DISK = 10e9, 1e9
"""Free bytes below which there is a warning, and something is wrong."""
MEMORY = 4e9, 1e9
"""The same of memory."""
HEARD = 200
"""Tracks of a folder that are listened to at most, evenly chosen, each in `EXCERPTS` places."""
EXCERPTS, EXCERPT = 4, 2.0
"""Seconds each."""
FLAT = 1e-4
"""The share of samples on flat tops from which a track counts as clipped."""
BLURRED, BROKEN = 0.6, 0.9
"""What a VAE leaves of silence's loss on a sound: more is a warning, and something wrong."""
SPREADS = 0.2, 5.0
"""Between these the spread of normalised latents should lie; 1 is meant."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str = ""
    """What to do, where it is not ok."""


@dataclass
class _Known:
    """What was opened so far: pairs are held against each other at the end."""

    data: list[tuple[Path, list[PreparedTrack]]] = field(default_factory=list)
    stores: list[tuple[str, LatentStore]] = field(default_factory=list)
    bundles: list[tuple[str, VAE, Bundle]] = field(default_factory=list)


def examine(things: Sequence[str] = (), device: str = "auto", progress: Progress = silent) -> Iterator[Finding]:
    """Look at the machine, then at each thing, then at how they fit each other; findings come as they are made.

    Args:
        things: folders of audio (prepared or not), latent stores, bundles or names of models, in any order.
        device: where to compute.

    Raises:
        UsageError: a thing that is not there at all, or a device that is not.
    """
    kinds = [(thing, _kind(thing)) for thing in things]
    total = 1 + len(kinds)
    progress(0, total, "the machine")
    yield from _machine(device)
    if _broken_torch():
        return
    known = _Known()
    for number, (thing, kind) in enumerate(sorted(kinds, key=lambda each: ("data", "store", "bundle").index(each[1]))):
        progress(1 + number, total, thing)
        look = {"data": _data, "store": _store, "bundle": _bundle}[kind]
        try:
            yield from look(thing, known, device)
        except MusicLDMError as error:
            yield Finding(thing, "wrong", error.message, error.hint)
    try:
        yield from _pairs(known)
    except MusicLDMError as error:
        yield Finding("together", "wrong", error.message, error.hint)
    progress(total, total, "done")


def _kind(thing: str) -> Literal["data", "store", "bundle"]:
    from musicldm import models
    from musicldm.core.bundle import INDEX

    path = Path(thing)
    if thing.startswith("s3://") or (path / "zarr.json").is_file():
        return "store"
    if any((folder / INDEX).is_file() for folder in (path, path / "bundle")):
        return "bundle"
    if thing.startswith("hf:") or thing in {model.name for model in models.models()}:
        return "bundle"
    if path.exists():
        return "data"
    raise UsageError(f"There is nothing at {thing}.", "Name a folder of audio, a latent store, a bundle or a model.")


# ---- The machine ---------------------------------------------------------------------------------------------------


def _machine(device: str) -> Iterator[Finding]:
    yield _versions()
    yield _ffmpeg()
    yield _disk()
    yield _memory()
    if not _broken_torch():
        yield _device(device)


def _broken_torch() -> str:
    """Why torch and what stands on it cannot be loaded; empty where they can."""
    for name in ("torch", "torchaudio"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            return f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def _versions() -> Finding:
    import platform

    versions = {}
    for name in ("musicldm", "torch", "torchaudio", "lightning", "numpy", "zarr", "av"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    text = f"Python {platform.python_version()}, " + ", ".join(f"{name} {found}" for name, found in versions.items())
    pair = [".".join(versions[name].split("+")[0].split(".")[:2]) for name in ("torch", "torchaudio")]
    together = "Install them as a pair: pip install torch==2.11.* torchaudio==2.11.*."
    if reason := _broken_torch():
        return Finding("versions", "wrong", f"{reason}. {text}", together)
    if pair[0] != pair[1]:
        return Finding("versions", "wrong", f"torch and torchaudio are no pair. {text}", together)
    missing = [name for name in ("lightning", "numpy", "zarr", "av") if versions[name] == "missing"]
    if missing:
        return Finding("versions", "wrong", f"{', '.join(missing)} is not installed. {text}", "pip install musicldm")
    return Finding("versions", "ok", text)


def _ffmpeg() -> Finding:
    from musicldm.media.audio.files import find_ffmpeg

    advice = "Install ffmpeg with the system's package manager; until then write wav or flac."
    try:
        program = find_ffmpeg()
        done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, timeout=20)
    except (MusicLDMError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("ffmpeg", "warning", f"None that runs, so no mp3, ogg or m4a can be written: {error}", advice)
    if done.returncode:
        return Finding("ffmpeg", "warning", f"{program} does not run: {done.stderr.strip()[:200]}", advice)
    whose = "the system's" if shutil.which("ffmpeg") else "the one that came along"
    version = " ".join(done.stdout.split()[:3])
    return Finding("ffmpeg", "ok", f"{version}, {whose}: {program}. Decoding needs none.")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free in {Path.cwd()}."
    advice = "Free some: an hour of music is 115 MB as 16 kHz waveforms, 30 MB as latents; a run keeps 3 checkpoints."
    return Finding("disk", _below(free, *DISK), text, "" if free >= DISK[0] else advice)


def _memory() -> Finding:
    free, total = _free_memory()
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, {os.cpu_count()} cores."
    return Finding(
        "memory",
        _below(free, *MEMORY),
        text,
        "" if free >= MEMORY[0] else "Close other programs, or use smaller crops.",
    )


def _below(value: float, warning: float, wrong: float) -> Verdict:
    return "wrong" if value < wrong else "warning" if value < warning else "ok"


def _free_memory() -> tuple[float, float]:
    """Bytes, as the system tells them; where it tells no more than the whole, that is free."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = float(page * os.sysconf("SC_PHYS_PAGES"))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), total
    except (OSError, StopIteration):
        return total, total


def _device(name: str) -> Finding:
    import torch

    from musicldm.core.devices import pick_device, pick_precision

    device = pick_device(name)
    precision = pick_precision("auto", device)
    if device.type == "cpu":
        if Path("/dev/nvidia0").exists() and not torch.cuda.is_available():
            text = f"There is an NVIDIA card, and torch {torch.__version__} cannot use it."
            return Finding("device", "warning", text, "Update its driver, or install the torch built for it.")
        advice = "Train the presets tiny and small here; base wants a GPU with 16 GB."
        return Finding(
            "device", "ok", f"No GPU; torch uses {torch.get_num_threads()} of {os.cpu_count()} cores, 32 bits. {advice}"
        )
    try:
        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        works = float(product.sum().cpu()) == 64**3
        reason = "it computes wrongly"
    except RuntimeError as error:
        works, reason = False, str(error).splitlines()[0]
    if not works:
        return Finding(
            "device", "wrong", f"{device} does not compute: {reason}.", "Update its driver, or --device cpu."
        )
    if device.type != "cuda":
        return Finding("device", "ok", f"{device}, {precision} bits.")
    free, total = torch.cuda.mem_get_info(device)
    text = f"{torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {precision}."
    if free < 0.5 * total:
        return Finding("device", "warning", text, "Another program has its memory: see nvidia-smi.")
    return Finding("device", "ok", text)


# ---- Music ---------------------------------------------------------------------------------------------------------


def _data(thing: str, known: _Known, device: str) -> Iterator[Finding]:
    from musicldm.media.audio.manifest import MANIFEST, read_tracks

    folder = Path(thing)
    if not (folder / MANIFEST).is_file():
        yield _unprepared(folder)
        return
    tracks = read_tracks(folder)
    known.data.append((folder, tracks))
    hours = sum(track.seconds for track in tracks) / 3600
    forms = {(track.sample_rate, track.channels) for track in tracks}
    text = f"{len(tracks)} prepared tracks, {hours:.2f} h, by {len({track.artist for track in tracks})} artists."
    if len(forms) > 1:
        mixed = ", ".join(f"{rate} Hz × {channels}" for rate, channels in sorted(forms))
        yield Finding(thing, "warning", f"{text} They are of {len(forms)} kinds: {mixed}.", "Train with --resample.")
    else:
        yield Finding(thing, "ok", text)
    if gone := [reason for track in tracks if (reason := _gone(track))]:
        yield Finding(thing, "wrong", f"{len(gone)} files are not as they were: {gone[0]}", "Run preprocess again.")
    yield _split(thing, [(track.content, track.split) for track in tracks])
    yield from _lengths(thing, [track.seconds for track in tracks], list(_TRAININGS))
    yield from _heard(thing, tracks)


def _unprepared(folder: Path) -> Finding:
    from musicldm.media.audio.decode import probe

    files = sorted(path for path in (folder.rglob("*") if folder.is_dir() else [folder]) if path.is_file())
    step = max(1, len(files) // HEARD)
    refused: dict[Path, str] = {}
    tried = files[::step]
    for path in tried:
        try:
            probe(path)
        except MusicLDMError as error:
            refused[path] = error.message
    usable = len(tried) - len(refused)
    text = f"{usable} of {len(tried)} files that were tried hold audio; they are not prepared."
    advice = f"Prepare them first: musicldm preprocess {folder} OUT"
    if not usable:
        return Finding(str(folder), "wrong", "There is no audio in it.", "Name a folder with audio files.")
    if refused:
        path, reason = next(iter(refused.items()))
        text += f" {path.name}: {reason}"
    return Finding(str(folder), "warning", text, advice)


def _gone(track: PreparedTrack) -> str:
    try:
        track.check()
    except MusicLDMError as error:
        return error.message
    return ""


def _split(thing: str, tracks: Sequence[tuple[str, str]]) -> Finding:
    """Of (content, split)."""
    train, heldout = ({content for content, split in tracks if split == each} for each in ("train", "heldout"))
    if both := train & heldout:
        text = f"{len(both)} tracks are held out and trained on, too: held-out figures would flatter."
        return Finding(thing, "wrong", text, "Remove the copies, and run preprocess again.")
    if not heldout:
        text = "No track is held out, so no training can tell whether it learns or copies."
        return Finding(thing, "warning", text, "Add tracks, or preprocess again.")
    if not train:
        return Finding(thing, "wrong", "All tracks are held out: there is nothing to train on.", "Add tracks.")
    return Finding(thing, "ok", f"{len(heldout)} tracks are held out.")


_TRAININGS = {"musicldm.codecs.vae": "train-vae", "musicldm.generators.diffusion": "train-diffusion"}
"""Where the presets of each training lie."""


def _lengths(thing: str, seconds: Sequence[float], stages: Sequence[str]) -> Iterator[Finding]:
    """Which tracks a preset's crops would leave out."""
    from musicldm.core import config

    told, worst, advice = [], 0.0, ""
    for stage, verb in _TRAININGS.items():
        for name in config.presets(stage) if stage in stages else ():
            crop = float(config.preset(stage, name)["training"]["seconds"])
            short = sum(each < crop for each in seconds)
            if not short:
                continue
            told.append(f"{short} of {len(seconds)} are shorter than the {crop:g} s of {verb} --preset {name}")
            lost = sum(each for each in seconds if each < crop) / sum(seconds)
            if lost > worst:
                worst, advice = lost, f"Such tracks are left out: choose shorter crops, {verb} --seconds."
    if not told:
        yield Finding(thing, "ok", f"The shortest track, {min(seconds):.1f} s, is as long as every preset's crops.")
        return
    verdict: Verdict = "ok" if worst < 0.05 else "warning"
    yield Finding(thing, verdict, "; ".join(told) + ".", advice if verdict != "ok" else "")


def _heard(thing: str, tracks: Sequence[PreparedTrack]) -> Iterator[Finding]:
    import numpy as np

    some = tracks[:: max(1, -(-len(tracks) // HEARD))]
    silent_tracks, clipped, strange, heard = [], [], [], 0
    for track in some:
        try:
            audio = np.concatenate(list(_excerpts(track)), axis=1)
        except MusicLDMError:
            continue  # told of already
        heard += 1
        if not np.isfinite(audio).all():
            strange.append(track)
        elif float(np.sqrt(np.mean(np.square(audio)))) < 1e-4:
            silent_tracks.append(track)
        elif _flat_tops(audio) > FLAT:
            clipped.append(track)
    where = f"of {len(some)} tracks listened to in {EXCERPTS} places"
    nothing: Verdict = "wrong" if len(silent_tracks) == len(some) else "warning"
    faults: list[tuple[list[PreparedTrack], Verdict, str, str]] = [
        (strange, "wrong", "hold values that are no numbers", "Run preprocess again."),
        (silent_tracks, nothing, "are silent", "Remove them: a model learns silence from them."),
        (clipped, "warning", "are clipped", "Look for a better copy: a model learns the distortion, too."),
    ]
    for found, verdict, what, advice in faults:
        if found:
            names = ", ".join(track.path.name for track in found[:3]) + (", …" if len(found) > 3 else "")
            yield Finding(thing, verdict, f"{len(found)} {where} {what}: {names}.", advice)
    if heard and not (strange or silent_tracks or clipped):
        yield Finding(thing, "ok", f"None {where} is silent or clipped.")


def _excerpts(track: PreparedTrack) -> Iterator[NDArray[np.float32]]:
    length = min(track.samples, round(EXCERPT * track.sample_rate))
    for number in range(EXCERPTS):
        start = (track.samples - length) * (2 * number + 1) // (2 * EXCERPTS)
        yield track.read(start, start + length)


def _flat_tops(audio: NDArray[np.float32]) -> float:
    """The share of samples that stand, four in a row, at one of the two extremes."""
    import numpy as np

    flat = 0
    for channel in audio:
        for extreme in (channel.max(), channel.min()):
            at = (channel == extreme).astype(np.int8)
            runs = np.flatnonzero(np.diff(at, prepend=0, append=0)).reshape(-1, 2)
            lengths = runs[:, 1] - runs[:, 0]
            flat += int(lengths[lengths >= 4].sum()) if abs(extreme) > 0.1 else 0
    return flat / audio.size


# ---- Latents -------------------------------------------------------------------------------------------------------


def _store(thing: str, known: _Known, device: str) -> Iterator[Finding]:
    import numpy as np

    from musicldm.latents import examine
    from musicldm.latents.store import LatentStore

    store = LatentStore.open(thing, skip_broken=True)
    known.stores.append((thing, store))
    header, tracks = store.header, list(store.tracks)
    for reason in store.broken.values():
        yield Finding(thing, "wrong", reason, "Restore it from a copy, or delete the part and encode again.")
    if not tracks:
        yield Finding(thing, "wrong", "There are no tracks in it.", f"Encode some: musicldm encode DATA {thing}.")
        return
    hours = sum(track.seconds for track in tracks) / 3600
    yield Finding(
        thing, "ok", f"{len(tracks)} tracks, {hours:.2f} h, {header.channels} channels, codec {header.codec_name}."
    )
    yield _split(thing, [(track.content, track.split) for track in tracks])
    yield from _lengths(thing, [track.seconds for track in tracks], ["musicldm.generators.diffusion"])
    yield _vae_of(thing, store)
    moments = store.moments()
    if not moments.count:
        return
    variance = np.stack([moments.squares, moments.variances]) / moments.count
    if not np.isfinite(variance).all() or not np.isfinite(moments.mean).all():
        yield Finding(thing, "wrong", "Some latents are no numbers.", "Encode again with --precision 32.")
        return
    yield _channels(thing, [examine.channel_warnings(*each) for each in _spreads(variance)])


def _spreads(variance: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """Each channel's spread and used share, from its posterior's mean's variance and its mean variance, [2, D]."""
    for of_mean, of_posterior in variance.T:
        whole = float(of_mean + of_posterior)
        yield whole**0.5, float(of_mean) / max(whole, 1e-30)


_LESS_KL = "with a smaller kl under [loss] in a file for --config"


def _channels(thing: str, warnings: Sequence[tuple[str, ...]]) -> Finding:
    bad = {number: told for number, told in enumerate(warnings) if told}
    if not bad:
        return Finding(thing, "ok", f"All {len(warnings)} latent channels are in use and of a sane spread.")
    first = ", ".join(f"channel {number}: {'; '.join(told)}" for number, told in list(bad.items())[:3])
    verdict: Verdict = "wrong" if len(bad) == len(warnings) else "warning"
    advice = f"Train the VAE longer, or {_LESS_KL}; musicldm latents stats shows all channels."
    return Finding(thing, verdict, f"{len(bad)} of {len(warnings)} channels look wrong ({first}).", advice)


def _vae_of(thing: str, store: LatentStore) -> Finding:
    from musicldm.core.errors import MismatchError
    from musicldm.latents.codec import has_codec, read_codec

    advice = "Copy the store again, or encode again: latents decoded by another VAE are noise."
    if not has_codec(store):
        return Finding(thing, "warning", "The VAE that made it is not in it.", advice)
    try:
        digest = read_codec(store).component("codec").digest
    except MismatchError:
        return Finding(thing, "wrong", "The VAE in it is not the one that it was made with.", advice)
    return Finding(thing, "ok", f"It holds the VAE that it was made with ({digest[:8]}).")


# ---- Models --------------------------------------------------------------------------------------------------------


def _bundle(thing: str, known: _Known, device: str) -> Iterator[Finding]:
    import torch

    from musicldm import models
    from musicldm.codecs.vae.model import VAE
    from musicldm.core import bundle

    source = bundle.read(models.find(thing))
    tensors = [tensor for component in source.components.values() for tensor in component.tensors.values()]
    numbers = sum(tensor.numel() for tensor in tensors)
    have = " and ".join(source.components)
    text = f"{source.name}: {have}, {numbers / 1e6:.1f} M weights, every byte as it was written."
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        yield Finding(thing, "wrong", f"{text} Some weights are no numbers.", "Export an earlier checkpoint.")
        return
    yield Finding(thing, "ok", text)
    vae = VAE.from_bundle(source)
    known.bundles.append((thing, vae, source))
    sound, what = _sound(known, vae.config.sample_rate, vae.config.audio_channels)
    with torch.inference_mode():
        posterior = vae.encode(sound)
        latents, made = posterior.mode(), vae.decode(posterior.mode())[..., : sound.shape[-1]]
        drawn = posterior.sample(torch.Generator().manual_seed(0))
    yield _reconstruction(thing, sound, made, vae.config.sample_rate, what)
    if "generator" not in source.components:
        if float(latents.std()) < 1e-3:
            advice = f"Train the VAE {_LESS_KL}; a denoiser can learn nothing from such latents."
            yield Finding(thing, "wrong", "Its latents do not change with the sound.", advice)
        return
    yield from _denoiser(thing, source, vae, drawn, what, device)


def _sound(known: _Known, rate: int, channels: int) -> tuple[torch.Tensor, str]:
    """Something to try a model on, [B, C, T]: held-out music where there is some, else a chord; and what it is."""
    import numpy as np
    import torch

    from musicldm.media.audio import resampled

    for folder, tracks in known.data:
        some = [track for track in tracks if track.split == "heldout" and track.seconds >= 2] or tracks
        some = resampled.fit(some[:: max(1, len(some) // 4)][:4], rate, channels)
        length = min(4 * rate, *(track.samples for track in some))
        crops = []
        for track in some:
            start = (track.samples - length) // 2
            try:
                crops.append(track.read(start, start + length))
            except MusicLDMError:
                continue  # told of already
        if crops and np.abs(crops).max() > 1e-3:
            return torch.from_numpy(np.stack(crops)), f"music of {folder}"
    time = torch.arange(3 * rate) / rate
    chord = torch.zeros(len(time))
    for struck, hertz in ((0.0, 261.6), (0.7, 329.6), (1.4, 392.0), (2.1, 523.3)):  # c e g c, struck one by one
        since = (time - struck).clamp(min=0)
        for partial in range(1, 7):
            if partial * hertz < 0.45 * rate:
                wave = (2 * torch.pi * partial * hertz * since).sin()
                chord += 0.15 / partial**1.5 * wave * (-3 * partial**0.5 * since).exp() * (since > 0)
    return chord.expand(1, channels, -1).clone(), "a chord"


def _reconstruction(thing: str, sound: torch.Tensor, made: torch.Tensor, rate: int, what: str) -> Finding:
    """Whether decode(encode(x)) is x at all."""
    from musicldm.evaluate.metrics import compare

    advice = "An untrained or wrong VAE: whatever is trained on its latents will sound as noise. Train it longer."
    if not bool(made.isfinite().all()):
        return Finding(thing, "wrong", f"Of {what} the VAE makes values that are no numbers.", advice)
    figures = compare(sound, made, rate)
    share, decibels = figures.study_to_silence or 0.0, figures.si_sdr
    heard = "" if decibels is None else f", SI-SDR {decibels:.1f} dB"
    text = f"The VAE brings back {what} with {share:.2f} of silence's loss{heard}."
    verdict: Verdict = "wrong" if share > BROKEN else "warning" if share > BLURRED else "ok"
    if verdict == "ok":
        return Finding(thing, verdict, text)
    return Finding(thing, verdict, text, advice if verdict == "wrong" else f"{advice} Name DATA too, to try its music.")


def _denoiser(thing: str, source: Bundle, vae: VAE, drawn: torch.Tensor, what: str, device: str) -> Iterator[Finding]:

    from musicldm.sampling import Pipeline

    config = source.component("generator").config
    made_for = config.get("codec", config.get("vae"))
    if made_for != vae.weights_hash:
        text = f"Its denoiser was trained on latents of another VAE ({str(made_for)[:8]}, not {vae.weights_hash[:8]})."
        yield Finding(thing, "wrong", text, "Copy the bundle again: such a pair gives noise, whatever the loss was.")
        return
    yield Finding(thing, "ok", "VAE and denoiser were made for each other.")
    pipeline = Pipeline(source, device)
    generator = pipeline.generator
    if generator.statistics.std == (1.0,) * len(generator.statistics.std):
        text = "Its latents were never measured: every channel is said to have spread 1."
        yield Finding(thing, "warning", text, "Train on a store that musicldm encode made.")
    z = generator.statistics.normalise(drawn).to(pipeline.device)
    spread = float(z.square().mean().sqrt())
    text = f"Latents of {what}, normalised, have spread {spread:.2f}; 1 is meant."
    if not SPREADS[0] <= spread <= SPREADS[1]:
        advice = "Latents are not scaled as the denoiser learned them: encode and train it again with this VAE."
        yield Finding(thing, "wrong", text, advice)
        return
    yield Finding(thing, "ok", text)
    left = generator.remaining_error(z)
    if left is None:
        return
    text = f"Of noise as loud as {what} the denoiser leaves {left:.2f} of what a guess by loudness leaves."
    if left < 0.97:
        yield Finding(thing, "ok", text)
        return
    advice = "It has not learned this music: train it longer, or try it on the music that it was trained on."
    yield Finding(thing, "warning", text, advice)


# ---- What was made for what ----------------------------------------------------------------------------------------


def _pairs(known: _Known) -> Iterator[Finding]:
    for name, vae, source in known.bundles:
        for folder, tracks in known.data:
            form = vae.config.sample_rate, vae.config.audio_channels
            other = sum((track.sample_rate, track.channels) != form for track in tracks)
            if other:
                wants = f"{form[0]} Hz and {form[1]} channel(s)"
                text = f"{other} of {len(tracks)} tracks are not of {wants}, as the VAE is."
                advice = f"Add --resample, or preprocess with --sample-rate {form[0]} --channels {form[1]}."
                yield Finding(f"{folder} and {name}", "warning", text, advice)
        for place, store in known.stores:
            yield from _made_by(f"{place} and {name}", store, vae, source)
    for place, store in known.stores:
        for folder, tracks in known.data:
            yield from _encoded(f"{folder} and {place}", store.header, store, tracks)


def _made_by(about: str, store: LatentStore, vae: VAE, source: Bundle) -> Iterator[Finding]:
    import numpy as np

    if store.header.codec_hash != vae.weights_hash:
        text = f"The store is of another VAE: {store.header.codec_hash[:8]}, not {vae.weights_hash[:8]}."
        yield Finding(about, "wrong", text, "Encode again with this VAE: another one's latents decode to noise.")
        return
    yield Finding(about, "ok", "The store's latents are this VAE's.")
    if "generator" not in source.components or not store.moments().count:
        return
    theirs, ours = source.component("generator").config.get("statistics", {}), store.statistics()
    ratio = np.array(theirs.get("std", ours.std)) / np.array(ours.std)
    if ratio.shape == (len(ours.std),) and (np.abs(np.log(ratio)) > np.log(1.2)).any():
        most = float(np.exp(np.abs(np.log(ratio)).max()))
        text = f"The denoiser scales latents by up to {most:.1f} times otherwise than this store."
        yield Finding(about, "warning", text, "The store has changed since: train the denoiser anew.")


def _encoded(about: str, header: StoreHeader, store: LatentStore, tracks: Sequence[PreparedTrack]) -> Iterator[Finding]:
    stored = {entry.content: entry.split for entry in store.tracks}
    missing = sum(track.content not in stored for track in tracks)
    seen = sum(track.split == "heldout" and stored.get(track.content) == "train" for track in tracks)
    if seen:
        text = f"{seen} tracks are held out in the folder and trained on in the store."
        yield Finding(about, "wrong", text, "Encode into a new store: one split must hold for all stages.")
    if missing:
        text = f"{missing} of {len(tracks)} tracks are not in the store."
        yield Finding(about, "warning", text, "Run musicldm encode again.")
    elif not seen:
        yield Finding(about, "ok", "All tracks are in the store, in the same split.")
