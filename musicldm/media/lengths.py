"""How short and how long music may be to be prepared."""

from __future__ import annotations

from musicldm.core.errors import ConfigError


def check(least: float, most: float | None) -> None:
    """Check two limits in seconds; None: no upper one.

    Raises:
        ConfigError: nothing would be accepted.
    """
    if most is not None and most < least:
        raise ConfigError(
            f"Nothing is at least {least:g} s long and at most {most:g} s.",
            "Let --min-seconds be less than --max-seconds.",
        )


def refusal(seconds: float, least: float, most: float | None) -> str:
    """Why music of so many seconds is refused; empty where it is not."""
    if seconds < least:
        return f"It is too short: {seconds:.3f} s."
    if most is not None and seconds > most:
        return f"It is too long: {seconds:.0f} s."
    return ""
