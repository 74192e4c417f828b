"""What `doctor` reports, and what it keeps of the things that it has examined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from musicldm.codecs.base import Codec
    from musicldm.core.bundle import Bundle
    from musicldm.latents.store import LatentStore
    from musicldm.media.manifest import PreparedTrack

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    about: str
    verdict: Verdict
    text: str
    """What was found."""
    advice: str = ""
    """What to do, where it is not ok."""


@dataclass
class Examined:
    """What has been opened so far: at the end, each is compared with the others."""

    data: list[tuple[Path, list[PreparedTrack]]] = field(default_factory=list)
    stores: list[tuple[str, LatentStore]] = field(default_factory=list)
    bundles: list[tuple[str, Codec, Bundle]] = field(default_factory=list)
