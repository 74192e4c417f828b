"""Models on the Hugging Face Hub. The only file here that imports huggingface_hub, which the extra `hf` brings.

Only `bundle.json` and the safetensors files that it names are fetched, all of one revision, into the Hub's own cache.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicldm.core.bundle import INDEX, LARGEST_INDEX
from musicldm.core.config import Count, from_dict
from musicldm.core.errors import BundleError, MissingProgramError, NetworkError, UsageError
from musicldm.core.progress import Progress, silent
from musicldm.core.reading import read_json

# Safetensors alone, since a pickle could run code; and without a slash, since the name becomes part of a path.
_WEIGHTS = re.compile(r"[\w.-]+\.safetensors")
_OURS = "Give a model that musicldm made."
_SECONDS = 10.0  # to wait for an answer


def fetch(repository: str, revision: str | None = None, progress: Progress = silent) -> Path:
    """A folder with the bundle in a repository, "owner/name"; what is in the cache is not fetched again.

    Without a network the version that was fetched last is used.

    Args:
        progress: counts bytes.

    Raises:
        MissingProgramError: huggingface_hub is not installed.
        BundleError: no such repository or revision, or no bundle in it.
        NetworkError: the Hub does not answer, and the model is not in the cache.
        UsageError: not a valid name of a repository.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingProgramError(
            "Models of the Hugging Face Hub need huggingface_hub, which is not installed.",
            "Install it: pip install 'musicldm[hf]'.",
        ) from error
    name = f"hf://{repository}" + (f"@{revision}" if revision else "")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of each of its own retries
    offline = _check(repository, revision, name)
    download = _Download(huggingface_hub.hf_hub_download, repository, local=offline is not None)
    try:
        return _fetch_all(download, revision, name, progress)
    except BundleError:
        raise
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        raise NetworkError(
            f"The Hub does not answer, and {name} has not been fetched before.", "Check the network, and try again."
        ) from (offline or error)
    except huggingface_hub.errors.EntryNotFoundError as error:
        raise BundleError(f"{name} lacks a file that its {INDEX} names.", "Ask its author.") from error
    except Exception as error:  # any error of the HTTP library below
        raise NetworkError(f"{name} could not be fetched: {error}.", "Try again: what was fetched is kept.") from error


def _check(repository: str, revision: str | None, name: str) -> Exception | None:
    """See whether there is such a model. Returns the error where the Hub cannot be reached.

    Raises:
        UsageError, BundleError: as in `fetch`.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:  # one quick request, since the download itself would retry for half a minute
        get_hf_file_metadata(hf_hub_url(repository, INDEX, revision=revision), timeout=_SECONDS)
    except errors.HFValidationError as error:
        raise UsageError(
            f"{name} is not a valid name of a model on the Hub.", "Expected, for example, hf://owner/name@v1."
        ) from error
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{name} is gated.", "Request access on its page, then log in with: hf auth login."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"hf://{repository} has no revision {revision!r}.", "Leave it out for the newest.") from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(f"There is no {name}.", "Check its name; a private one needs: hf auth login.") from error
    except errors.EntryNotFoundError as error:
        raise BundleError(f"There is no bundle in {name}: it has no {INDEX}.", _OURS) from error
    except Exception as error:  # any error of the HTTP library below
        return error
    return None


class _Download:
    """Files of one repository, into the cache of the Hub.

    Args:
        local: only look into the cache.
    """

    def __init__(self, download: Callable[..., str], repository: str, local: bool) -> None:
        self._download = download
        self._repository = repository
        self._local = local

    def __call__(self, file: str, revision: str | None, move: Callable[[int], None]) -> Path:
        """The path of a file; `move` is called with the number of bytes each time that some arrive."""
        options = {"local_files_only": self._local, "tqdm_class": _progress_bar(move)}
        return Path(self._download(self._repository, file, revision=revision, **options))


def _fetch_all(download: _Download, revision: str | None, name: str, progress: Progress) -> Path:
    """Fetch the index and all files that it names. Returns their folder."""
    index = download(INDEX, revision, lambda _: None)
    weights = _weights(index, name)
    total, done = sum(weights.values()), 0

    def move(count: int) -> None:
        nonlocal done
        done += count
        progress(min(done, total), total, f"fetching {name}")

    for file in weights:
        # The folder is called after the commit: all files are of the same one, even if somebody pushes meanwhile.
        download(file, index.parent.name, move)
    return index.parent


@dataclass(frozen=True)
class _Sized:
    """What must be known of a file before it is fetched."""

    bytes: Count


def _weights(index: Path, name: str) -> dict[str, int]:
    """The files of weights that a bundle's index of any format names, and their sizes in bytes.

    Raises:
        BundleError: it names none, or other files.
    """
    try:
        found = read_json(index, LARGEST_INDEX)
        components = (found["parts"] if found["format"] == 1 else found["components"]).values()
        weights = {str(each["file"]): from_dict(_Sized, dict(each), unknown="pass over").bytes for each in components}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"There is no bundle in {name}: its {INDEX} is not musicldm's.", _OURS) from error
    if wrong := [file for file in weights if not _WEIGHTS.fullmatch(file)]:
        raise BundleError(f"{name} names {wrong[0]!r}, which is not a safetensors file.", "Do not use this model.")
    return weights


def _progress_bar(move: Callable[[int], None]) -> Any:
    """A tqdm class, as huggingface_hub takes one, that shows nothing and passes on the number of bytes."""
    from tqdm.auto import tqdm

    class Counter(tqdm):  # type: ignore[misc]  # it has no types
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # An argument of huggingface_hub's own class, which tqdm refuses.
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})
            # A download that is resumed begins with what is in the cache already.
            move(int(options.get("initial") or 0))

        def update(self, n: float | None = 1) -> None:
            move(int(n or 0))

    return Counter
