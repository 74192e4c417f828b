"""Models by name: those that come with the package, those in folders of one's own, those on the Hugging Face Hub.

A model is a folder that has the model's name, such as `piano/` beside this file:

    bundle.json     and the safetensors files that it names, see `musicldm.core.bundle`
    card.md         its model card; it may begin with lines `what: …` and `license: …` between two `---`

The environment variable MUSICLDM_MODELS names more folders of such folders, separated as in PATH; they come first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from musicldm.core.bundle import INDEX
from musicldm.core.errors import BundleError, DataError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import read_file

FOLDERS = "MUSICLDM_MODELS"
DEFAULT = "piano"
"""The model that `sample` uses where none is named."""
CARD = "card.md"
LARGEST_CARD = 1 << 20
"""Bytes."""

_ON_THE_HUB = re.compile(r"hf:/{1,2}(?P<repository>[^/@]+/[^/@]+?)(@(?P<revision>.+))?")  # a Path has one slash only


@dataclass(frozen=True)
class Model:
    """A model that can be named."""

    name: str
    path: Path
    """Its folder."""
    what: str
    """One line on what it generates."""
    license: str
    """Of its weights."""
    bytes: int
    """The size of all its files."""

    @property
    def card(self) -> str:
        """Its model card, in Markdown; empty where there is none."""
        return _read_card(self.path)[1]


def models() -> list[Model]:
    """All models that can be named on this machine, sorted by name; of equal names, the first found."""
    found: dict[str, Model] = {}
    for folder in _folders():
        for path in sorted(each.parent for each in folder.glob(f"*/{INDEX}")):
            about, text = _read_card(path)
            prose = (line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
            size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
            what, license = about.get("what") or next(prose, ""), about.get("license", "not stated")
            found.setdefault(path.name, Model(path.name, path, what, license, size))
    return sorted(found.values(), key=lambda model: model.name)


def named(name: str) -> Model:
    """The model of that name.

    Raises:
        BundleError: there is none.
    """
    for model in models():
        if model.name == name:
            return model
    raise BundleError(f"There is no model {name!r}.", _known())


def find(model: str | Path | None = None, progress: Progress = silent) -> Path:
    """Where a model is: a bundle, or the run folder that holds it.

    Args:
        model: a path, a name from `models`, or hf://owner/name[@revision]; None: DEFAULT.
        progress: counts the bytes that arrive from the Hub.

    Raises:
        UsageError: none is named, and the default is not installed; or the address on the Hub is not valid.
        BundleError: there is no such model, or no bundle in it.
        MissingProgramError: it is on the Hub, and huggingface_hub is not installed.
        NetworkError: the Hub does not answer, and the model is not in the cache.
    """
    if model is None:
        for each in models():
            if each.name == DEFAULT:
                return each.path
        raise UsageError("There is no model.", "Give a bundle or a run folder with --model.")
    text = str(model)
    if address := _ON_THE_HUB.fullmatch(text):
        from musicldm.models import hub

        return hub.fetch(address["repository"], address["revision"], progress)
    if text.startswith("hf:"):
        raise UsageError(
            f"{text} is not a valid address of a model.", "Expected hf://owner/name or hf://owner/name@v1."
        )
    path = Path(text)
    # A folder that merely is called like a model does not hide it; with a slash it can only be a path.
    if path.exists() and (_has_bundle(path) or os.sep in text):
        return path
    for each in models():
        if each.name == text:
            return each.path
    if not path.exists() and os.sep not in text:
        raise BundleError(f"There is no model {text!r}, and no such path.", _known())
    return path  # whose reader raises the fitting error


def _has_bundle(path: Path) -> bool:
    return any((folder / INDEX).is_file() for folder in (path, path / "bundle"))


def _folders() -> Iterator[Path]:
    yield from (Path(each) for each in os.environ.get(FOLDERS, "").split(os.pathsep) if each)
    yield Path(__file__).parent


def _known() -> str:
    names = ", ".join(model.name for model in models())
    elsewhere = "a bundle, a run folder or hf://owner/name"
    return f"Known: {names}; or name {elsewhere}." if names else f"Name {elsewhere}."


def _read_card(path: Path) -> tuple[dict[str, str], str]:
    """The fields between the two `---` of a card, and the text after them."""
    try:
        # utf-8-sig, since editors on Windows may put a byte order mark first, before the `---`.
        text = read_file(path / CARD, LARGEST_CARD).decode("utf-8-sig", "replace").replace("\r\n", "\n")
    except (OSError, DataError):  # missing or unreadable: a model needs no card
        return {}, ""
    head, opened, rest = text.partition("---\n")
    if not opened or head.strip():
        return {}, text
    lines, _, rest = rest.partition("---\n")
    pairs = (line.partition(":") for line in lines.splitlines() if ":" in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}, rest.lstrip("\n")
