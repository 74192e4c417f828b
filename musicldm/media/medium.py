"""What music can be made of here."""

from __future__ import annotations

from typing import Literal

Medium = Literal["audio", "notes"]
