"""What holds for tracks wherever they are, in a prepared folder or in a store: their split and their lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from musicldm.core.bundle import MADE_BY, Role
from musicldm.doctor.findings import Finding, Verdict
from musicldm.media.medium import UNIT, Medium

if TYPE_CHECKING:
    from musicldm.core.registry import Registry


def examine_split(about: str, tracks: Sequence[tuple[str, str]]) -> Finding:
    """Whether there are tracks to train on and others to test on.

    Args:
        tracks: the content hash and the split of each.
    """
    train, heldout = ({content for content, split in tracks if split == each} for each in ("train", "heldout"))
    if both := train & heldout:
        text = f"{len(both)} tracks are both held out and trained on: held-out figures would flatter."
        return Finding(about, "wrong", text, "Remove the copies, and run preprocess again.")
    if not heldout:
        text = "No track is held out, so no training can tell whether it learns or copies."
        return Finding(about, "warning", text, "Add tracks, or preprocess again.")
    if not train:
        return Finding(about, "wrong", "All tracks are held out: there is nothing to train on.", "Add tracks.")
    return Finding(about, "ok", f"{len(heldout)} of {len(train) + len(heldout)} tracks are held out.")


def examine_lengths(about: str, lengths: Sequence[float], roles: Sequence[Role], medium: Medium) -> Iterator[Finding]:
    """Which tracks are shorter than the crops of the presets.

    Args:
        lengths: of the tracks, in seconds of audio or beats of notes.
        roles: the components that would be trained on these tracks.
    """
    unit = UNIT[medium]
    found, worst, advice = [], 0.0, ""
    for verb, options, crop in _crops(roles, medium):
        short = [each for each in lengths if each < crop]
        if not short:
            continue
        found.append(f"{len(short)} of {len(lengths)} are shorter than the {crop:g} {unit} of {verb} {options}")
        lost = sum(short) / sum(lengths)
        if lost > worst:
            worst, advice = lost, f"They are used whole, and teach nothing beyond their length: see {verb} --seconds."
    if not found:
        yield Finding(
            about, "ok", f"The shortest track, {min(lengths):.1f} {unit}, is long enough for the crops of every preset."
        )
        return
    verdict: Verdict = "ok" if worst < 0.05 else "warning"
    yield Finding(about, verdict, "; ".join(found) + ".", advice if verdict != "ok" else "")


def _crops(roles: Sequence[Role], medium: Medium) -> Iterator[tuple[str, str, float]]:
    """The verb, the options and the seconds of a crop of every preset of every registered codec and generator."""
    from musicldm.codecs.base import CODECS
    from musicldm.core import config
    from musicldm.generators.base import GENERATORS

    registries: dict[Role, Registry] = {"codec": CODECS, "generator": GENERATORS}
    for role in roles:
        registry = registries[role]
        for name in registry.names():
            family = registry.load(name)
            if role == "codec" and family.run_config().model.spec.medium != medium:
                continue
            # The first that is registered is the default of the verb.
            which = "" if name == registry.names()[0] else f"--{role} {name} "
            for preset in config.presets(family.package):
                training = config.preset(family.package, preset).get("training", {})
                if "seconds" in training:
                    yield MADE_BY[role].split()[-1], f"{which}--preset {preset}", float(training["seconds"])
