"""A crawl in this process, and what it leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from musicldm.crawl.catalog import Selection
from musicldm.crawl.fetch import Outcome, fetch
from musicldm.crawl.plan import plan_crawl
from musicldm.crawl.settings import CrawlSettings
from tests.crawl.conftest import World

GLASS = "The Glass Bells"


def crawl(world: World, out: Path, *names: str, settings: CrawlSettings | None = None, **selection: Any) -> Outcome:
    settings = settings or world.settings
    return fetch(plan_crawl(names or (GLASS,), out, settings, Selection(**selection)), settings)


def catalog(out: Path) -> dict[str, dict[str, Any]]:
    """The last record of each title."""
    lines = (out / "catalog.jsonl").read_text().splitlines()
    return {record["title"]: record for record in map(json.loads, lines)}


def files(out: Path) -> set[str]:
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return found - {".lock"}
