"""A folder of music to waveforms and MIDI files of one kind: nested folders in, a mirrored tree and a manifest out.

Workers turn one file each into one output under a temporary name. The coordinator alone gives it its own name and
writes the manifest, and a track is done when its line is there. The outputs depend on the sources and the settings
only: not on the order in which workers finish, nor on how often the work was interrupted and resumed.
"""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

from musicldm.core import durable
from musicldm.core.errors import DataError, UsageError
from musicldm.core.guard import Guard
from musicldm.core.jobs import run_all, run_on_cluster
from musicldm.core.progress import Progress, silent
from musicldm.media.artists import USUAL, ArtistRule
from musicldm.media.audio.prepare import Prepared, PrepareSettings, prepare
from musicldm.media.ledger import Finished, Ledger, Output, Settings, Task
from musicldm.media.manifest import MANIFEST, is_manifest
from musicldm.media.notes.prepare import NoteSettings, PreparedScore
from musicldm.media.notes.prepare import prepare as prepare_score
from musicldm.media.sources import digest, walk
from musicldm.media.summary import Summary


def preprocess(
    source: Path,
    out: Path,
    settings: PrepareSettings,
    jobs: int = 1,
    progress: Progress = silent,
    time_limit: float = 600,
    cluster: str = "",
    overwrite: bool = False,
    artists: ArtistRule = USUAL,
    notes: NoteSettings | None = None,
) -> Summary:
    """Turn every audio file under `source` into a waveform under `out`, and every MIDI file into one on the grid.

    What is MIDI is told by a file's content. Files that are done already are skipped.

    Args:
        jobs: worker processes on this machine.
        time_limit: seconds after which a file is given up.
        cluster: address of a Dask scheduler, whose workers see the same folders; they take the place of `jobs`.
        overwrite: replace files in `out` that this has not written, or that were changed since.
        notes: for MIDI files; None: the defaults. `settings` are for audio.
        artists: whose the files are; tracks that are done already get their artist by this rule, too.

    Raises:
        DataError: `source` is no folder, or there is nothing usable in it.
        UsageError: `source` lies inside `out`.
        OutputError: `out` cannot be written, another run is writing there, or files would be replaced that this has not
            written; what was done stays done.
        NetworkError: the cluster cannot be reached.
    """
    source, out = source.absolute(), out.absolute()  # workers elsewhere have another working directory
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name the folder that holds the music.")
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"The output {out} would contain the input {source}.", "Choose another folder for the output.")
    with durable.locked(durable.make_folder(out)):
        Guard(is_manifest, overwrite).clear(out / MANIFEST)
        _sweep(out)
        status = out.stat()
        # The output counts as seen already, so that one inside of the input is not taken for more input.
        files = list(walk(source, seen={(status.st_dev, status.st_ino)}))
        ledger = Ledger(source, out, Settings(settings, notes or NoteSettings()), files, artists, overwrite)
        if not ledger.sources:
            raise DataError(f"There is no music in {source}.")
        tasks = ledger.plan()
        ledger.check(tasks)
        found = len(ledger.sources)
        while tasks:
            done = found - len(tasks)
            progress(done, found)
            outcomes = (
                run_on_cluster(_work, tasks, cluster, time_limit)
                if cluster
                else run_all(_work, tasks, jobs, time_limit)
            )
            try:
                with closing(outcomes):
                    for task, outcome in outcomes:
                        ledger.commit(task, outcome)
                        done += 1
                        progress(done, found, task.name)
            finally:
                _sweep(out)
            # A source that was made again with other sound may have been the kept twin of others, which have no output
            # of their own; they are made now.
            tasks = ledger.orphaned_duplicates()
            ledger.check(tasks)
        ledger.hold_out()
        ledger.label()

    summary = ledger.summary()
    if not summary.tracks:
        reasons = " ".join(f"{name}: {reason}" for name, reason in list(summary.failed.items())[:3])
        if summary.takes:
            reasons = f"{len(summary.takes)} are takes of musicldm sample, which --include-takes prepares. {reasons}"
        raise DataError(f"No file in {source} could be used.", f"{reasons} All reasons are in {out / MANIFEST}.")
    return summary


def _sweep(out: Path) -> None:
    """Remove unfinished files of workers that were killed."""
    for leftover in out.rglob(f"{durable.TEMPORARY}*"):
        if durable.is_unfinished(leftover):
            with suppress(OSError):
                leftover.unlink()


def _work(task: Task) -> Finished:
    # Reading is much faster than decoding: a file that was only touched ends here.
    source = digest(task.path)
    if source == task.known:
        return Finished(source, None, None)
    durable.make_folder(task.target.parent)
    file = durable.unfinished(task.target)
    prepared: Prepared | PreparedScore
    if isinstance(task.settings, NoteSettings):
        prepared = prepare_score(task.path, file, task.settings)
    else:
        prepared = prepare(task.path, file, task.settings)
    return Finished(source, Output(file, digest(file)), prepared)
