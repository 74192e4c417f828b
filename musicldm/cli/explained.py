"""Any exception -> the sentence, the hint and the exit code that a person gets."""

from __future__ import annotations

from musicldm.core.capacity import out_of_memory
from musicldm.core.durable import disk_full
from musicldm.core.errors import CapacityError, MissingProgramError, MusicLDMError, OutputError


def explained(error: Exception) -> MusicLDMError:
    """The error as one of ours: itself, what the system or a library meant by it, or else a bug in musicldm."""
    if isinstance(error, MusicLDMError):
        return error
    if out_of_memory(error):
        return CapacityError(
            "There is not enough memory for this.",
            "Close other programs, lift the limit (ulimit -v) if one is set, or work on less at a time.",
        )
    if isinstance(error, UnicodeEncodeError):
        name = ascii(error.object) if len(error.object) < 100 else "A name or a text"
        return OutputError(
            f"{name} cannot be written in this locale, whose encoding is {error.encoding}.",
            "Use a UTF-8 locale, such as LC_ALL=C.UTF-8, or set PYTHONUTF8=1.",
        )
    if broken := _torch_is_broken(error):
        return broken
    if isinstance(error, OSError):
        return disk_full(error) or OutputError(f"{error}.", "Check the path, its permissions and the free space.")
    hint = "This is a bug in musicldm. MUSICLDM_DEBUG=1 shows the traceback; please report it."
    return MusicLDMError(f"{type(error).__name__}: {error}", hint)


def _torch_is_broken(error: Exception) -> MusicLDMError | None:
    """What to do where torch and torchaudio do not load together: each wrong pair fails with another exception."""
    # To try them takes seconds, so only where they may be the cause: an import, or an error that rose out of them.
    trace, names = error.__traceback__, set[str]()
    while trace is not None:
        names.add(str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0])
        trace = trace.tb_next
    if not (isinstance(error, ImportError) or names & {"torch", "torchaudio"}):
        return None
    from musicldm.doctor.machine import how_to_mend_torch, why_torch_is_broken

    try:
        reason = why_torch_is_broken()
    except CapacityError as full:
        return full
    return (
        MissingProgramError(f"torch and torchaudio cannot be loaded ({reason}).", how_to_mend_torch())
        if reason
        else None
    )
