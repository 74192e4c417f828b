"""Models on the Hugging Face Hub. The only file that knows huggingface_hub, which the extra `hf` brings.

Only `bundle.json` and the safetensors files that it names are fetched, in one version, into the Hub's own cache.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from musicldm.core.bundle import INDEX
from musicldm.core.errors import BundleError, MissingProgramError, NetworkError, UsageError
from musicldm.core.progress import Progress, silent

_WEIGHTS = re.compile(r"[\w.-]+\.safetensors")
_OURS = "Name a model that musicldm made."
_SECONDS = 10.0  # to wait for an answer


def fetch(repository: str, revision: str | None = None, progress: Progress = silent) -> Path:
    """A folder with the bundle in a repository, "owner/name"; what is here already is not fetched again.

    Without a network the version that was fetched last is taken.

    Raises:
        MissingProgramError: huggingface_hub is not installed.
        BundleError: no such repository or revision, or no bundle in it.
        NetworkError: the Hub does not answer, and there is nothing of it here.
        UsageError: no repository can be called so.
    """
    try:
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise MissingProgramError(
            "Models of the Hugging Face Hub need huggingface_hub, which is not installed.",
            "Install it: pip install 'musicldm[hf]'.",
        ) from error
    name = f"hf://{repository}" + (f"@{revision}" if revision else "")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it remarks on every try of its own
    offline: Exception | None = None
    try:  # one quick question, since the download itself would try for half a minute
        get_hf_file_metadata(hf_hub_url(repository, INDEX, revision=revision), timeout=_SECONDS)
    except errors.HFValidationError as error:
        raise UsageError(f"No model of the Hub is called {name}.", "Such as hf://owner/name@v1.") from error
    except errors.GatedRepoError as error:
        raise BundleError(f"{name} is not for everybody.", "Ask for it on its page, then: hf auth login.") from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"hf://{repository} has no revision {revision!r}.", "Leave it out for the newest.") from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(f"There is no {name}.", "Check its name; a private one needs: hf auth login.") from error
    except errors.EntryNotFoundError as error:
        raise BundleError(f"There is no bundle in {name}: it has no {INDEX}.", _OURS) from error
    except Exception as error:  # which one is the affair of the HTTP library below
        offline = error

    def get(file: str, revision: str | None, move: Callable[[int], None]) -> Path:
        heard, local = _progress_bar(move), offline is not None
        return Path(hf_hub_download(repository, file, revision=revision, local_files_only=local, tqdm_class=heard))

    try:
        index = get(INDEX, revision, lambda _: None)
        parts = _parts(index, name)
        total, done = sum(parts.values()), 0

        def move(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total, f"fetching {name}")

        for file in parts:
            get(file, index.parent.name, move)  # of the same commit, which the folder is called after
    except BundleError:
        raise
    except errors.LocalEntryNotFoundError as error:
        raise NetworkError(
            f"The Hub does not answer, and {name} has not been fetched before.", "Check the network, and try again."
        ) from (offline or error)
    except errors.EntryNotFoundError as error:
        raise BundleError(f"{name} lacks a file that its {INDEX} names.", "Ask whoever made it.") from error
    except Exception as error:
        raise NetworkError(f"{name} could not be fetched: {error}.", "Try again: what came is kept.") from error
    return index.parent


def _parts(index: Path, name: str) -> dict[str, int]:
    """The files of weights that a bundle names, and their sizes.

    Raises:
        BundleError: it names none, or others.
    """
    try:
        told = json.loads(index.read_bytes())
        components = (told["parts"] if told["format"] == 1 else told["components"]).values()
        parts = {str(each["file"]): int(each["bytes"]) for each in components}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"There is no bundle in {name}: its {INDEX} is another's.", _OURS) from error
    if wrong := [file for file in parts if not _WEIGHTS.fullmatch(file)]:
        raise BundleError(f"{name} wants {wrong[0]!r} read, which is no safetensors file.", "Do not use it.")
    return parts


def _progress_bar(move: Callable[[int], None]) -> Any:
    """A bar of tqdm, as huggingface_hub wants one, that shows nothing and passes on how many bytes came."""
    from tqdm.auto import tqdm

    class Heard(tqdm):  # type: ignore[misc]  # it has no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            move(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> None:
            move(int(n or 0))

    return Heard
