"""Copies of the training music are found, whatever was done to them, and nothing else is called so."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import decode_long
from musicldm.core.errors import DataError, MismatchError
from musicldm.evaluate import passage_index, passages
from musicldm.evaluate.memorization import (
    MemorizationResult,
    TrainingPassages,
    evaluate_memorization,
    training_passage,
)
from musicldm.evaluate.passages import levels
from musicldm.latents.codec import header_of, write_codec
from musicldm.latents.store import LatentStore, Track
from musicldm.media.audio import files
from musicldm.media.audio.decode import resample
from tests.pages import Elements
from tests.toy_model import HOP, RATE, toy_bundle
from tests.toys import Command

SECONDS, HELDOUT = 12, (3, 7)


def notes(number: int, seconds: float = SECONDS) -> np.ndarray:
    """Latents of a track, [frames, 4]: a new chord about five times a second."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(HOP // 4, HOP // 2, 100)
    return np.repeat(rng.normal(0, 2, (100, 4)), lengths, axis=0)[: round(seconds * RATE / HOP)].astype(np.float32)


def add(store: LatentStore, numbers: range, heldout: tuple[int, ...] = HELDOUT) -> None:
    with store.writer() as writer:
        for number in numbers:
            split = "heldout" if number in heldout else "train"
            about = Track(
                SECONDS * RATE - 5, f"sound {number}", split, "Artist", f"{number}", {}, "f01d", f"{number}.wav"
            )
            writer.append(about, [(notes(number), np.full_like(notes(number), -9))])


def vae() -> VAE:
    return VAE.from_bundle(toy_bundle())


def made(path: Path, numbers: range = range(8), heldout: tuple[int, ...] = HELDOUT) -> Path:
    store = LatentStore.create(path, header_of(vae()))
    write_codec(store, vae())
    add(store, numbers, heldout)
    return path


def sound(number: int) -> np.ndarray:
    """What a track sounds like: [1, T]."""
    z = torch.from_numpy(notes(number).T.astype(np.float16).astype(np.float32))
    return torch.cat(list(decode_long(vae(), z)), dim=1).numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was looked at once; tests that change it take a copy."""
    path = made(tmp_path_factory.mktemp("memorization") / "z.zarr")
    TrainingPassages.of(LatentStore.open(path))
    return path


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    return shutil.copytree(place, tmp_path / "z.zarr")


def judged(store: Path, folder: Path, **sounds: np.ndarray) -> MemorizationResult:
    for name, audio in sounds.items():
        files.write(folder / "out" / f"{name}.wav", audio.astype(np.float32), RATE)
    return evaluate_memorization([folder / "out"], store)


def test_copies_are_copied_and_new_ones_are_new(place: Path, tmp_path: Path) -> None:
    first, second = RATE * 2 + 29, RATE * 8
    disturbed = {
        "as_it_is": sound(5)[:, 2 * RATE : second],
        "off_the_hop": sound(5)[:, first:second],
        "quieter": sound(5)[:, first:second] * 0.5,
    }
    result = judged(place, tmp_path, **disturbed, other=sound(100)[:, first:second], another=sound(101))
    found = {Path(match.sound).stem: match for match in result.matches}
    assert {name: match.verdict for name, match in found.items()} == dict.fromkeys(disturbed, "copied") | dict.fromkeys(
        ("other", "another"), "new"
    )
    for name in disturbed:
        match = found[name]
        assert (match.track, match.source) == ("Artist – 5", "5.wav")
        assert match.at - match.start == pytest.approx(2, abs=0.1)
        assert match.as_near == 0 and match.copied_above == pytest.approx(0.85)
    assert found["as_it_is"].similarity > 0.9
    assert result.counts == {"copied": 3, "close": 0, "new": 2}
    match = found["as_it_is"]
    heard = training_passage(LatentStore.open(place), vae(), match).numpy()
    wanted = sound(5)[:, round(match.at * RATE) :][:, : heard.shape[1]]
    assert heard.shape[1] / RATE == pytest.approx(match.seconds, abs=0.01)
    np.testing.assert_allclose(heard[:, RATE:-RATE], wanted[:, RATE:-RATE], atol=1e-4)  # the ends lack what is around
    assert [match.similarity for match in result.matches] == sorted(
        (m.similarity for m in result.matches), reverse=True
    )
    assert result.hours * 3600 == pytest.approx(6 * SECONDS, rel=0.01)
    assert result.heldout_tracks == len(HELDOUT)
    assert json.loads(json.dumps(result.to_dict()))["counts"]["copied"] == 3


def test_what_is_as_near_as_held_out_music_is_not_called_copied(tmp_path: Path) -> None:
    """Held-out tracks that are themselves in the training music raise what a copy must exceed."""
    store = LatentStore.create(tmp_path / "z.zarr", header_of(vae()))
    with store.writer() as writer:
        for number, split in ((1, "train"), (2, "train"), (1, "heldout"), (2, "heldout")):
            about = Track(SECONDS * RATE, f"{number} {split}", split, "A", "B", {}, "f01d", f"{number} {split}.wav")
            writer.append(about, [(notes(number), np.full_like(notes(number), -9))])
    write_codec(store, vae())
    result = judged(tmp_path / "z.zarr", tmp_path, disturbed=sound(1)[:, 29 : 6 * RATE])
    assert result.matches[0].copied_above > 0.97
    assert result.matches[0].verdict != "copied"
    assert result.matches[0].as_near > 0


def test_the_search_is_exact(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs at once, though here the search goes through blocks of a few."""
    training = TrainingPassages.of(LatentStore.open(place))
    frames = np.concatenate(list(levels([torch.from_numpy(sound(100))], RATE)))
    monkeypatch.setattr(passages, "_BLOCK", 7)
    monkeypatch.setattr(passage_index, "_SEARCHED", 5)
    similarities, numbers = training.nearest(frames)
    index = np.load(next((place / "passages-1").glob("*.npy"))).astype(float)
    with np.load(next((place / "passages-1").glob("*.npz"))) as learnt:
        mean, axes = learnt["mean"].astype(float), learnt["axes"].astype(float)
    assert len(similarities) == len(frames) - 60
    assert len(index) == training.count
    for start in range(0, len(frames) - 60, 9):
        passage = frames[start : start + 61 : 2].astype(float)
        passage = np.maximum(passage, passage.max() - 5)
        point = ((passage - passage.mean(axis=0)).T.flatten() - mean) @ axes
        wanted = index @ (point / np.linalg.norm(point))
        assert similarities[start] == pytest.approx(wanted.max(), abs=1e-3)
        assert wanted[numbers[start]] == pytest.approx(wanted.max(), abs=1e-3)


def test_frames_do_not_depend_on_how_a_sound_comes() -> None:
    audio = torch.from_numpy(sound(1))
    whole = np.concatenate(list(levels([audio], RATE)))
    in_pieces = np.concatenate(list(levels((audio[:, i : i + 3001] for i in range(0, audio.shape[1], 3001)), RATE)))
    np.testing.assert_array_equal(whole, in_pieces)
    assert len(whole) == (audio.shape[1] - 11 * 128) // 512 + 1
    both = np.concatenate(list(levels([torch.cat([audio, audio])], RATE)))
    np.testing.assert_allclose(both, whole, atol=0.01)


def test_what_is_known_of_a_store_is_kept_until_the_store_changes(copied: Path, tmp_path: Path) -> None:
    before = (copied / "passages-1" / "frames").read_bytes()
    shutil.move(copied / "codec", tmp_path / "vae")  # so that nothing can be decoded
    assert judged(copied, tmp_path, late=sound(9)[:, : 6 * RATE]).matches[0].verdict == "new"
    shutil.move(tmp_path / "vae", copied / "codec")
    add(LatentStore.open(copied), range(8, 10))
    match = judged(copied, tmp_path).matches[0]
    assert (match.verdict, match.track) == ("copied", "Artist – 9")
    after = (copied / "passages-1" / "frames").read_bytes()
    assert after.startswith(before)  # only what is new was decoded
    assert len(after) * 8 == len(before) * 10
    assert len(list((copied / "passages-1").glob("*.np[yz]"))) == 2


def test_killed_while_indexing_it_goes_on(place: Path, tmp_path: Path) -> None:
    store = made(tmp_path / "z.zarr")
    folder = store / "passages-1"

    def interrupt(done: float, total: float | None, text: str = "") -> None:
        if done > 3 * SECONDS - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainingPassages.of(LatentStore.open(store), progress=interrupt)
    whole = (folder / "frames").stat().st_size
    assert len((folder / "frames.jsonl").read_text().splitlines()) == 3
    with (folder / "frames").open("ab") as frames:  # as a kill would leave it
        frames.write(b"torn" * 100)
    with (folder / "frames.jsonl").open("a") as journal:
        journal.write('{"key": "torn')
    training = TrainingPassages.of(LatentStore.open(store))
    assert (folder / "frames").read_bytes() == (place / "passages-1" / "frames").read_bytes()
    assert (folder / "frames").stat().st_size * 3 == whole * 8
    for ours, theirs in zip(training.heldout, TrainingPassages.of(LatentStore.open(place)).heldout, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_cache_that_was_cut_short_is_mended(copied: Path, tmp_path: Path) -> None:
    frames = copied / "passages-1" / "frames"
    whole = frames.read_bytes()
    frames.write_bytes(whole[: len(whole) // 2])
    next((copied / "passages-1").glob("*.npz")).write_bytes(b"PK\3\4")
    assert judged(copied, tmp_path, a=sound(5)).matches[0].verdict == "copied"
    assert frames.read_bytes() == whole


def test_a_cache_elsewhere_leaves_the_store_alone(tmp_path: Path) -> None:
    store = made(tmp_path / "z.zarr")
    files.write(tmp_path / "a.wav", sound(5), RATE)
    result = evaluate_memorization([tmp_path / "a.wav"], store, vae(), cache=tmp_path / "cache")
    assert result.matches[0].verdict == "copied"
    assert not (store / "passages-1").exists()


def test_a_store_of_another_vae(place: Path, tmp_path: Path) -> None:
    files.write(tmp_path / "a.wav", sound(5), RATE)
    other = VAE.from_bundle(toy_bundle())
    other.weights_hash = "0" * 64
    with pytest.raises(MismatchError, match="was made with the codec 'toy'"):
        evaluate_memorization([tmp_path / "a.wav"], place, other)


def test_sounds_that_cannot_be_judged_are_left_out_by_name(place: Path, tmp_path: Path) -> None:
    long = np.zeros((1, 6 * RATE))
    time = np.arange(6 * RATE) / RATE
    result = judged(
        place, tmp_path, silence=long, tone=0.5 * np.sin(4000 * time)[None], short=sound(5)[:, :RATE], good=sound(5)
    )
    assert [match.sound for match in result.matches] == ["good.wav"]
    assert result.left_out["short.wav"] == "It is 1.00 s long; it must be at least 4.2 s."
    assert result.left_out["silence.wav"] == result.left_out["tone.wav"]
    (tmp_path / "out" / "good.wav").unlink()
    with pytest.raises(DataError, match="None of 3 sounds can be judged"):
        evaluate_memorization([tmp_path / "out"], place)


def test_without_held_out_music_there_is_no_measure(tmp_path: Path) -> None:
    files.write(tmp_path / "a.wav", sound(5), RATE)
    with pytest.raises(DataError, match="No held-out track"):
        evaluate_memorization([tmp_path / "a.wav"], made(tmp_path / "z.zarr", range(3), heldout=()))
    with pytest.raises(DataError, match="No training track"):
        evaluate_memorization([tmp_path / "a.wav"], made(tmp_path / "y.zarr", range(2), heldout=(0, 1)))


def test_the_command(musicldm: Command, place: Path, tmp_path: Path) -> None:
    """A file of another rate with two channels among what it is given."""
    audio = resample(np.repeat(sound(5), 2, axis=0).astype(np.float32), RATE, 44100)
    files.write(tmp_path / "copy.flac", audio, 44100)
    files.write(tmp_path / "new.wav", sound(100), RATE)
    done = musicldm("evaluate", "memory", tmp_path / "copy.flac", tmp_path / "new.wav", "--store", place, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [match["verdict"] for match in told["matches"]] == ["copied", "new"]
    assert "1 copied, 0 close, 1 new" in done.err
    lines = musicldm("evaluate", "memory", tmp_path / "copy.flac", "--store", place, "-q")
    assert lines.out.startswith("copied")
    assert "Artist – 5 at 0:0" in lines.out
    assert lines.err == ""


def test_a_page_of_it(musicldm: Command, place: Path, tmp_path: Path) -> None:
    """Each sample's passage beside the nearest of the training music."""
    names = {"<script>alert(1).wav": sound(5)[:, RATE:], "new.wav": sound(100)}
    for name, audio in names.items():
        files.write(tmp_path / "out" / name, audio, RATE)
    arguments = "--store", place, "--html", tmp_path / "page.html", "--json"
    done = musicldm("evaluate", "memory", tmp_path / "out", *arguments)
    assert done.code == 0 and "page.html" in done.err, done.err
    seen = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [name for name, _ in seen.found].count("script") == 1 and "<script>alert(1).wav" in seen.text
    matches = json.loads(done.out)["matches"]
    assert (
        f"copied, similarity {matches[0]['similarity']:.2f}" in seen.text and "Copied would be above 0.85" in seen.text
    )
    heard = [soundfile.read(io.BytesIO(content), dtype="float32")[0] for content in seen.sources("audio")]
    assert len(heard) == 4
    for match, ours, theirs in zip(matches, heard[::2], heard[1::2], strict=True):
        for played, audio, at in (
            (ours, names[match["sound"]], "start"),
            (theirs, sound(int(match["source"][0])), "at"),
        ):
            first = round(match[at] * RATE)
            wanted = audio[0, first : first + round(match["seconds"] * RATE)]
            assert abs(len(played) - len(wanted)) <= 2 * HOP
            middle = slice(RATE, 3 * RATE)  # a passage that is decoded alone has other ends
            assert np.corrcoef(played[middle], wanted[middle])[0, 1] > 0.98
