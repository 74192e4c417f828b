"""Everything that musicldm raises on purpose; each error is the fitting builtin as well.

MusicLDMError                 one sentence for a person, and a hint
├── UsageError (ValueError)         the command or call makes no sense as given; exit code 2
├── ConfigError (ValueError)        a configuration with an unknown key or an impossible value; exit code 2
├── DataError (ValueError)          audio, a manifest or a store that cannot be used
├── BundleError (ValueError)        a model that is missing, cut short or changed
├── TrainingError (RuntimeError)    a loss that is no longer a number
├── CapacityError (MemoryError)     more than the GPU's memory holds
├── MismatchError (ValueError)      two components that do not belong together
├── NotFoundError (LookupError)     an artist or recording that does not exist
│   └── AmbiguousError                  a name that several have
├── NetworkError (ConnectionError)  a service that does not answer
│   └── BlockedError                    a service that has blocked us
├── RefusedError (PermissionError)  one item that a service refuses
│   └── NotNowError                     it may be available later
├── MissingProgramError (OSError)   a program that must be installed first
└── OutputError (OSError)           a path that cannot be written

Library code raises; only the command line's `main` turns an error into a sentence and an exit code.
"""

from __future__ import annotations


class MusicLDMError(Exception):
    """The root of the tree. `message` is one sentence; `hint` says what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[MusicLDMError], tuple[str, str]]:
        return type(self), (self.message, self.hint)  # the hint must survive the way back from a worker process

    def __str__(self) -> str:
        return self.message


class UsageError(MusicLDMError, ValueError):
    exit_code = 2


class ConfigError(MusicLDMError, ValueError):
    exit_code = 2


class DataError(MusicLDMError, ValueError):
    pass


class BundleError(MusicLDMError, ValueError):
    pass


class CapacityError(MusicLDMError, MemoryError):
    pass


class MismatchError(MusicLDMError, ValueError):
    pass


class NotFoundError(MusicLDMError, LookupError):
    pass


class AmbiguousError(NotFoundError):
    pass


class NetworkError(MusicLDMError, ConnectionError):
    pass


class BlockedError(NetworkError):
    pass


class RefusedError(MusicLDMError, PermissionError):
    pass


class NotNowError(RefusedError):
    pass


class MissingProgramError(MusicLDMError, OSError):
    pass


class OutputError(MusicLDMError, OSError):
    pass


class TrainingError(MusicLDMError, RuntimeError):
    pass
