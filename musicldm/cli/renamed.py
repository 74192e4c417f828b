"""Options that release 0.1 spelled differently: typing one is an error that names the new spelling."""

from __future__ import annotations

from collections.abc import Sequence

from musicldm.core.errors import UsageError

RENAMED: dict[str, dict[str, str]] = {
    "sample": {"--like": "--replay", "--init": "--vary", "--continue": "--extend", "--resample": "--repaint"},
    "train-vae": {"--init": "--init-from"},
    "train-diffusion": {"--init": "--init-from", "--denoiser": "--network"},
    "evaluate": {"--yardsticks": "--baselines"},
}
"""Verb -> old spelling -> new one."""


def check(arguments: Sequence[str]) -> None:
    """Look through the arguments of the program.

    Raises:
        UsageError: the name of an option is of an earlier release.
    """
    renamed = RENAMED.get(arguments[0], {}) if arguments else {}
    for argument in arguments[1:]:
        name = argument.partition("=")[0]
        if name in renamed:
            raise UsageError(f"{name} is now called {renamed[name]}.", f"Use {renamed[name]} instead.")
