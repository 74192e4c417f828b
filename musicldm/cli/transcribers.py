"""Where notes can be compared and were not, a line that says how."""

from __future__ import annotations

from musicldm.cli.console import Console


def hint_at_notes(console: Console, transcriber: str | None) -> None:
    """Give an installed transcriber, where none was asked for."""
    from musicldm.evaluate.transcription import installed_transcribers

    if transcriber is None and (names := installed_transcribers()):
        console.note(f"Notes are also compared with --transcriber {' or '.join(names)}.")
