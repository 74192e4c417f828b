"""How a sound is sampled, in words; and what is said where many are brought to another form."""

from __future__ import annotations

from collections.abc import Mapping


def form(sample_rate: int, channels: int) -> str:
    """For example "44100 Hz, 2 channels"."""
    return f"{sample_rate} Hz, {channels} channel{'s' * (channels != 1)}"


def converted(forms: Mapping[str, int], what: str, sample_rate: int, channels: int) -> str:
    """The sentence for many that were not of this form; empty where there are none.

    Args:
        forms: `form` of these -> how many there are.
        what: "file" or "track".
    """
    count = sum(forms.values())
    if not count:
        return ""
    which = "; ".join(f"{number} from {name}" for name, number in forms.items())
    whose = f"1 {what} is" if count == 1 else f"{count} {what}s are"
    return f"{whose} converted to {form(sample_rate, channels)}: {which}."
