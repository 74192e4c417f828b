"""What a run of `preprocess` did, out of the records of its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from musicldm.core.names import counted
from musicldm.media.audio.forms import form as form_of
from musicldm.media.manifest import medium_of

Record = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """The result of a run of `preprocess`."""

    files: int
    """Sources found, usable or not."""
    prepared: int
    """Done in this run."""
    skipped: int
    """Done before."""
    tracks: int
    """Usable now."""
    heldout: int
    """Of these, kept from training."""
    hours: float
    """Of all usable tracks."""
    prepared_hours: float
    """Of those done in this run."""
    scores: int
    """Of all usable tracks, those that are notes and not audio."""
    notes: int
    """In all of these."""
    quieter: int
    """Of those done in this run, left below the target loudness, since their peaks would have clipped."""
    artists: dict[str, int]
    """Of all usable tracks, the most frequent first; "" stands for nobody known."""
    artists_from: dict[str, int]
    """Of how many tracks the artist comes from the catalog, a tag, a folder, the option; or nobody is known."""
    relabelled: int
    """Tracks of earlier runs that have another artist now."""
    converted: dict[str, int]
    """The form of sources, such as "44100 Hz, 2 channels" -> how many of those done in this run had another form."""
    lowered: dict[str, float]
    """Of those done in this run: source -> the dB by which it was lowered since its peak lay beyond full scale."""
    cancelled: list[str]
    """Of those done in this run, whose channels cancel each other, so that one of them was taken."""
    beyond_header: dict[str, float]
    """Of those done in this run: source -> seconds of its sound that its header does not know of."""
    trimmed_seconds: float
    """Silence that was taken off in this run."""
    repairs: dict[str, int]
    """Of the MIDI files done in this run: what had to be put right, and how often; see `tracks.Repairs`."""
    merged: int
    """Notes of these that fell on the same pitch and step as another."""
    onsets_exact: float | None
    """The fraction of these files' notes that began on the grid of 24 steps a quarter; None: there are none."""
    off_keys: int
    """Notes of these that no piano has, drums among them: kept in the files, and not seen by codecs of rolls."""
    takes: list[str] = field(default_factory=list)
    """Sources that are our own takes, and were left out."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Source -> the source with the same audio that was kept."""
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> reason."""

    @classmethod
    def of(
        cls,
        tracks: Sequence[Record],
        tried: Sequence[Record],
        kept: Mapping[str, str],
        files: int,
        relabelled: int,
        takes: list[str],
        failed: dict[str, str],
        form: str,
    ) -> Summary:
        """The summary of a run.

        Args:
            tracks: the records of all that is usable now.
            tried: those of all sources that this run has read.
            kept: content -> the source whose output is kept.
            form: of the waveforms, as `forms.form` has it.
        """
        done = [record for record in tried if record["status"] == "done"]
        waves = [record for record in done if medium_of(record) == "audio"]
        scores = [record for record in done if medium_of(record) == "notes"]
        forms = Counter(form_of(each["original"]["sample_rate"], each["original"]["channels"]) for each in waves)
        forms.pop(form, None)
        repairs: Counter[str] = Counter()
        for record in scores:
            repairs.update(record["original"]["repairs"])
        notes = sum(record["notes"] for record in scores)
        exact = sum(record["notes"] * record["grid"]["onsets_exact"] for record in scores)
        return cls(
            files=files,
            prepared=len(done),
            skipped=files - len(tried),
            tracks=len(tracks),
            heldout=sum(record["split"] == "heldout" for record in tracks),
            hours=sum(record["seconds"] for record in tracks) / 3600,
            prepared_hours=sum(record["seconds"] for record in done) / 3600,
            scores=sum(medium_of(record) == "notes" for record in tracks),
            notes=sum(record.get("notes", 0) for record in tracks),
            quieter=sum(record["held_back"] for record in waves),
            artists=counted(record["artist"] for record in tracks),
            artists_from=dict(Counter(record.get("artist_from", "earlier release") for record in tracks)),
            relabelled=relabelled,
            converted=dict(forms.most_common()),
            lowered={record["source"]: record["lowered"] for record in waves if record["lowered"]},
            cancelled=[record["source"] for record in waves if record["original"]["cancelled"]],
            beyond_header={
                record["source"]: record["original"]["beyond_header"]
                for record in waves
                if record["original"]["beyond_header"]
            },
            trimmed_seconds=sum(sum(record["trimmed"].values()) for record in waves),
            repairs=dict(repairs.most_common()),
            merged=sum(int(record["grid"]["merged"]) for record in scores),
            onsets_exact=exact / notes if notes else None,
            off_keys=notes - sum(record["on_keys"] for record in scores),
            takes=takes,
            duplicates={r["source"]: kept[r["content"]] for r in tried if r["status"] == "duplicate"},
            failed=failed,
        )
