"""Imports point one way, and the help costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import musicldm
from musicldm.codecs.base import CODECS
from musicldm.core.registry import Registry

ROOT = Path(musicldm.__file__).parent
ANY = {path.name for path in ROOT.iterdir() if path.is_dir()}
# What each folder may import of the others, beside itself and core.
ARROWS: dict[str, set[str]] = {
    "core": set(),
    "nn": set(),
    "noise": {"nn"},
    "media": set(),
    "crawl": set(),
    "models": set(),
    "codecs": {"nn", "noise", "media", "models", "training", "latents"},
    "latents": {"media", "codecs", "models"},
    "conditions": {"nn", "latents"},
    "generators": {"nn", "noise", "conditions", "latents", "training"},
    "sampling": {"noise", "codecs", "conditions", "generators", "latents", "media", "models"},
    "training": {"media", "models"},
    "evaluate": {"media", "codecs", "latents", "models", "sampling"},
    "doctor": ANY - {"cli", "crawl"},
    "cli": ANY,
}
# Libraries that only one place may know.
OWNERS = {
    "lightning": {"training"},
    "typer": {"cli"},
    "rich": {"cli"},
    "musicbrainzngs": {"crawl/musicbrainz.py"},
    "yt_dlp": {"crawl/youtube.py"},
    "zarr": {"latents/writer.py"},
    "numcodecs": {"latents/writer.py", "latents/shards.py"},
    "fsspec": {"latents/storage.py"},
    "distributed": {"core/jobs.py"},
    "rapidfuzz": {"crawl/matching.py"},
    "av": {"media/audio/decode.py"},
    "soxr": {"media/audio/decode.py"},
    "pydub": {"media/audio/files.py"},
    "soundfile": {"media/audio/files.py"},
    "huggingface_hub": {"models/hub.py", "evaluate/clap.py"},
    "transkun": {"evaluate/transkun.py"},
    "onnxruntime": {"evaluate/basic_pitch.py"},
}


def imports(file: Path) -> set[str]:
    """The modules that a file imports, whole names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_arrows_point_one_way() -> None:
    wrong = []
    for file in ROOT.rglob("*.py"):
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue
        allowed = ARROWS[part] | {part, "core", "__version__"}
        for name in imports(file):
            if name.startswith("musicldm.") and name.split(".")[1] not in allowed:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("registry", [CODECS], ids=["codecs"])
def test_only_its_line_in_the_registry_names_a_family(registry: Registry) -> None:
    """Every codec is one folder: what stands outside of it reaches it by its name in the registry."""
    wrong = []
    for name in registry.names():
        package = f"musicldm.{registry.kind}s.{name}"
        for file in ROOT.rglob("*.py"):
            place = ".".join(("musicldm", *file.relative_to(ROOT).parts))
            if not place.startswith(f"{package}."):
                lines = file.read_text(encoding="utf-8").splitlines()
                wrong += [f"{place}: {line.strip()}" for line in lines if package in line and "FAMILY" not in line]
    assert wrong == []


def test_every_library_has_its_place() -> None:
    wrong = []
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT)
        for name in {module.split(".")[0] for module in imports(file)} & OWNERS.keys():
            if not {place.as_posix(), place.parts[0]} & OWNERS[name]:
                wrong.append(f"{place} imports {name}")
    assert wrong == []


def test_help_and_the_package_load_nothing_heavy() -> None:
    script = (
        "import sys, contextlib\n"
        "import musicldm\n"
        "from musicldm.cli.app import app\n"
        "for line in (['--help'], ['train-vae', '--help'], ['sample', '--help']):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        app(line)\n"
        "heavy = {'torch', 'lightning', 'numpy', 'zarr', 'av', 'matplotlib', 'yt_dlp'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train-diffusion" in done.stdout


def test_generating_never_loads_lightning() -> None:
    script = "import sys, musicldm.sampling; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_training_on_one_device_never_loads_lightning() -> None:
    """It launches processes, and takes seconds to load."""
    script = "import sys, musicldm.codecs.vae.training; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
