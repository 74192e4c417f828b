"""The machine: versions, ffmpeg, disk, memory, and the device that computes."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from musicldm.core.capacity import out_of_memory
from musicldm.core.errors import CapacityError, MusicLDMError
from musicldm.doctor.findings import Finding, Verdict

DISK = 10e9, 1e9
"""Free bytes below which there is a warning, and below which something is wrong."""
MEMORY = 4e9, 1e9
"""The same for RAM."""

_PAIR = "torch", "torchaudio"  # compiled against each other: only certain versions load together
_PACKAGES = (*_PAIR, "lightning", "numpy", "zarr", "av")


def examine_machine(device: str) -> Iterator[Finding]:
    """All about the machine; the device only where torch can be loaded."""
    yield _versions()
    yield _ffmpeg()
    yield _disk()
    yield _memory()
    if not why_torch_is_broken():
        yield _device(device)


def why_torch_is_broken() -> str:
    """Why torch, or what stands on it, cannot be loaded; empty where both can.

    Raises:
        CapacityError: the memory does not hold them.
    """
    for name in _PAIR:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            if out_of_memory(error):
                raise CapacityError(
                    f"There is not enough memory for {name}.", "Close other programs, or lift the limit."
                ) from error
            # Versions that do not fit fail in any of these ways: a missing name, a library that the linker refuses, an
            # operator that torch does not know.
            return f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def how_to_mend_torch() -> str:
    """The command after which torch and torchaudio load together."""
    # Both by name, and anew: where the versions that are there fit by their numbers, and do not load all the same (one
    # is of another index or cut short), pip would be content with them.
    pair = " ".join(repr(_required().get(name, name)) for name in _PAIR)
    return f"Install them as a pair: pip install --force-reinstall {pair}"


def _versions() -> Finding:
    versions = {}
    for name in ("musicldm", *_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    text = f"Python {platform.python_version()}, " + ", ".join(f"{name} {found}" for name, found in versions.items())
    required = _required()
    pair = [required.get(name, name) for name in _PAIR]
    together = how_to_mend_torch()
    if reason := why_torch_is_broken():
        return Finding("versions", "wrong", f"{reason}. {text}", together)
    if not all(_satisfies(versions[name], required.get(name, "")) for name in _PAIR):
        return Finding("versions", "wrong", f"musicldm needs {' and '.join(pair)}. {text}", together)
    missing = [name for name in _PACKAGES if versions[name] == "missing"]
    if missing:
        return Finding("versions", "wrong", f"{', '.join(missing)} is not installed. {text}", "pip install musicldm")
    return Finding("versions", "ok", text)


def _required() -> dict[str, str]:
    """What the installed package requires: name -> requirement. So the versions stand in pyproject.toml alone."""
    try:
        lines = metadata.requires("musicldm") or []
    except metadata.PackageNotFoundError:  # it runs from a folder of its sources
        lines = []
    # A ";" begins a condition: such a requirement belongs to an extra.
    plain = [line.replace(" ", "") for line in lines if ";" not in line]
    return {re.split(r"[^\w.-]", line)[0]: line for line in plain}


def _satisfies(version: str, requirement: str) -> bool:
    """Whether a version fits such as "torch==2.15.*" or "torchaudio<2.12,>=2.11.1"; anything else fits all."""
    # Without what follows "+", such as cu126, which names a build and not a version.
    found = [int(piece) for piece in re.findall(r"\d+", version.split("+")[0])[:3]]
    for operator, text in re.findall(r"(==|>=|<)([\d.]+)", requirement):
        bound = [int(piece) for piece in re.findall(r"\d+", text)]
        if operator == "==" and found[: len(bound)] != bound:
            return False
        if (operator == ">=" and found < bound) or (operator == "<" and found >= bound):
            return False
    return True


def _ffmpeg() -> Finding:
    from musicldm.media.audio.files import find_ffmpeg

    advice = "Install ffmpeg with the system's package manager; until then write wav or flac."
    try:
        program = find_ffmpeg()
        done = subprocess.run(
            [program, "-version"], capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=20
        )
    except (MusicLDMError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("ffmpeg", "warning", f"None that runs, so no mp3, ogg or m4a can be written: {error}", advice)
    if done.returncode:
        return Finding("ffmpeg", "warning", f"{program} does not run: {done.stderr.strip()[:200]}", advice)
    whose = "the system's" if shutil.which("ffmpeg") else "the one installed with musicldm"
    version = " ".join(done.stdout.split()[:3])
    return Finding("ffmpeg", "ok", f"{version}, {whose}: {program}. Decoding does not need it.")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 1e9:.1f} GB free in {Path.cwd()}."
    advice = "Free some: an hour of music is 115 MB as 16 kHz waveforms, 30 MB as latents; a run keeps 3 checkpoints."
    return Finding("disk", _below(free, *DISK), text, "" if free >= DISK[0] else advice)


def _memory() -> Finding:
    cores = f"{os.cpu_count()} cores"
    found = _free_memory()
    if found is None:
        return Finding("memory", "ok", f"This system does not say how much is free; {cores}.")
    free, total = found
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, {cores}."
    advice = "" if free >= MEMORY[0] else "Close other programs, or use smaller crops."
    return Finding("memory", _below(free, *MEMORY), text, advice)


def _below(value: float, warning: float, wrong: float) -> Verdict:
    return "wrong" if value < wrong else "warning" if value < warning else "ok"


def _free_memory(meminfo: Path = Path("/proc/meminfo")) -> tuple[float, float] | None:
    """Free and total bytes; where the system states only the total, all of it counts as free. None: neither."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # on Windows there is none; elsewhere it may not know the names
        return None
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        # Not MemFree, which leaves out the page cache, although the kernel gives that back.
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), total
    except (OSError, StopIteration):
        return total, total


def _device(name: str) -> Finding:
    import torch

    from musicldm.core.devices import pick_device, pick_precision

    device = pick_device(name)
    precision = pick_precision("auto", device)
    if device.type == "cpu":
        return _cpu()
    try:
        product = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
        # Powers of two, so the result is exact in every precision: a device may compute wrongly without any error.
        works = float(product.sum().cpu()) == 64**3
        reason = "its results are wrong"
    except RuntimeError as error:
        works, reason = False, str(error).splitlines()[0]
    if not works:
        advice = "Update its driver, or use --device cpu."
        return Finding("device", "wrong", f"{device} cannot compute: {reason}.", advice)
    if device.type != "cuda":
        return Finding("device", "ok", f"{device}, {precision} bits.")
    free, total = torch.cuda.mem_get_info(device)
    text = f"{torch.cuda.get_device_name(device)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {precision}."
    if free < 0.5 * total:
        return Finding("device", "warning", text, "Another program is using its memory: see nvidia-smi.")
    return Finding("device", "ok", text)


def _cpu() -> Finding:
    import torch

    # The device file is the driver's; torch may all the same be built without CUDA, or for a newer driver.
    if Path("/dev/nvidia0").exists() and not torch.cuda.is_available():
        text = f"There is an NVIDIA GPU, and torch {torch.__version__} cannot use it."
        return Finding("device", "warning", text, "Update its driver, or install the torch built for it.")
    threads = f"torch uses {torch.get_num_threads()} of {os.cpu_count()} cores, 32 bits"
    return Finding(
        "device", "ok", f"No GPU; {threads}. Train the presets tiny and small here; base wants a GPU with 16 GB."
    )
