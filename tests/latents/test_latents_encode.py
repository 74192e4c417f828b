"""`encode`: waveforms and a VAE to a store, with the real VAE at toy size."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from musicldm.cli.encode import encode as command
from musicldm.codecs.base import LatentSpec
from musicldm.codecs.vae.config import VAEConfig
from musicldm.codecs.vae.model import VAE
from musicldm.core import bundle
from musicldm.core.errors import BundleError, DataError, MismatchError, OutputError, UsageError
from musicldm.latents import encode as module
from musicldm.latents.encode import encode
from musicldm.latents.store import LatentStore
from musicldm.media.audio import files
from musicldm.media.manifest import open_manifest, read_tracks
from tests.codecs.toy_codec import ToyCodec

RATE = 1000
CONFIG = VAEConfig(
    sample_rate=RATE,
    latent_channels=3,
    patch=4,
    patch_kernel=4,
    widths=(8, 8),
    strides=(2,),
    blocks=1,
    attention_block=4,
)


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    vae = VAE(CONFIG).eval().requires_grad_(False)
    vae.name, vae.weights_hash = "toy", "c0ffee" * 10
    return vae


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for number, samples in enumerate((2000, 1999, 777)):
        add_track(folder, number, samples)
    return folder


def add_track(folder: Path, number: int, samples: int, rate: int = RATE, channels: int = 1, **changes: object) -> Path:
    """One prepared WAV and its line in the manifest."""
    path = folder / f"artist {number}" / f"{number}.wav"
    sound = np.random.default_rng(number).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)
    files.write(path, sound, rate)
    record = {
        "source": f"{number}.mp3",
        "status": "done",
        "path": path.relative_to(folder).as_posix(),
        "sample_rate": rate,
        "channels": channels,
        "samples": samples,
        "seconds": samples / rate,
        "content": f"content {number}",
        "split": "train",
        "artist": f"Artist {number}",
        "title": f"Title {number}",
        "provenance": {"licence": "CC0"},
    }
    open_manifest(folder).append(record | changes)
    return path


def test_tracks_are_encoded_in_windows_as_they_would_be_whole(data: Path, tmp_path: Path, vae: VAE) -> None:
    seen: list[tuple[float, float | None]] = []
    summary = encode(
        data,
        tmp_path / "store",
        vae,
        window_seconds=0.1,
        progress=lambda done, total, text="": seen.append((done, total)),
    )
    assert (summary.encoded, summary.skipped, summary.tracks, summary.left_out) == (3, 0, 3, {})
    assert summary.hours == summary.encoded_hours == pytest.approx(4.776 / 3600)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == pytest.approx((4.776, 4.776))
    assert len(seen) > 40, "a bar that moves within a track"

    store = LatentStore.open(tmp_path / "store")
    assert summary.bytes == store.bytes > 0
    assert (store.header.rate, store.header.hop, store.header.codec_name) == (RATE, 8, "toy")
    for entry, samples in zip(store.tracks, (2000, 1999, 777), strict=True):
        assert (entry.samples, entry.frames) == (samples, -(-samples // 8))
        assert (entry.split, entry.provenance, entry.seconds) == ("train", {"licence": "CC0"}, samples / RATE)
        number = entry.title[-1]
        sound = torch.from_numpy(files.read(data / f"artist {number}" / f"{number}.wav"))
        posterior = vae.encode(sound[None])
        for stored, whole in zip(store.read(entry), (posterior.mean, posterior.logvar), strict=True):
            np.testing.assert_allclose(stored, whole[0].T.half().numpy(), rtol=2e-3, atol=1e-4)


def test_encoding_again_does_only_what_is_missing(
    data: Path, tmp_path: Path, vae: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(data, tmp_path / "store", vae)
    before = list(LatentStore.open(tmp_path / "store").tracks)
    with monkeypatch.context() as patched:
        patched.setattr(files, "read", None)  # no sample is looked at
        patched.setattr(VAE, "to", None)  # the weights stay where they are
        patched.setattr(VAE, "encode", None)
        summary = encode(data, tmp_path / "store", vae, devices=["cuda:7"])
    assert (summary.encoded, summary.skipped, summary.tracks) == (0, 3, 3)

    add_track(data, 7, 900)
    summary = encode(data, tmp_path / "store", vae)
    assert (summary.encoded, summary.skipped, summary.tracks) == (1, 3, 4)
    after = LatentStore.open(tmp_path / "store").tracks
    assert list(after)[:3] == list(before)
    assert after[3].title == "Title 7"


def test_an_interruption_keeps_the_complete_tracks_and_the_next_run_goes_on(
    data: Path, tmp_path: Path, vae: VAE
) -> None:
    def interrupt(done: float, total: float | None, text: str = "") -> None:
        if done > 3:  # in the middle of the second track
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(data, tmp_path / "store", vae, window_seconds=0.1, progress=interrupt)
    assert [entry.title for entry in LatentStore.open(tmp_path / "store").tracks] == ["Title 0"]
    summary = encode(data, tmp_path / "store", vae)
    assert (summary.encoded, summary.skipped, summary.tracks) == (2, 1, 3)


def test_tracks_that_the_vae_cannot_take_are_left_out_by_name(data: Path, tmp_path: Path, vae: VAE) -> None:
    add_track(data, 3, 900, rate=8000)
    add_track(data, 4, 900, channels=2)
    summary = encode(data, tmp_path / "store", vae)
    assert summary.encoded == 3
    assert summary.left_out == {
        "artist 3/3.wav": "It has 8000 samples a second, and the codec takes 1000.",
        "artist 4/4.wav": "It has 2 channel(s), and the codec takes 1.",
    }


def test_where_no_track_fits_nothing_is_made(tmp_path: Path, vae: VAE) -> None:
    add_track(tmp_path / "data", 3, 900, rate=8000)
    with pytest.raises(DataError, match=r"None of the 1 tracks in .*8000 samples a second") as caught:
        encode(tmp_path / "data", tmp_path / "store", vae)
    assert "preprocess" in caught.value.hint
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("change", ["gone", "shorter", "longer", "no wav", "stereo"])
def test_a_file_that_changed_after_it_was_prepared_is_left_out_by_name(
    data: Path, tmp_path: Path, vae: VAE, change: str
) -> None:
    path = data / "artist 1" / "1.wav"
    sound = files.read(path)
    match change:
        case "gone":
            path.unlink()
        case "shorter":
            files.write(path, sound[:, :1500], RATE)
        case "longer":
            files.write(path, np.tile(sound, 2), RATE)
        case "no wav":
            path.write_text("hello")
        case "stereo":
            files.write(path, np.tile(sound, (2, 1)), RATE)
    summary = encode(data, tmp_path / "store", vae, window_seconds=0.5)
    assert list(summary.left_out) == ["artist 1/1.wav"]
    assert str(path) in summary.left_out["artist 1/1.wav"]
    assert [entry.title for entry in LatentStore.open(tmp_path / "store").tracks] == ["Title 0", "Title 2"]


@pytest.mark.parametrize("known", [True, False])
def test_a_file_of_another_size_is_not_even_read(
    data: Path, tmp_path: Path, vae: VAE, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    size = add_track(data, 3, 900).stat().st_size
    add_track(data, 3, 900, bytes=size)
    if known:
        assert encode(data, tmp_path / "store", vae).left_out == {}
    add_track(data, 3, 900, bytes=size - 1)  # as if the file had grown since
    with monkeypatch.context() as patched:
        read = files.read
        patched.setattr(files, "read", lambda path, *where: None if path.name == "3.wav" else read(path, *where))
        summary = encode(data, tmp_path / "store", vae)
    assert list(summary.left_out) == ["artist 3/3.wav"]
    assert "was changed since it was prepared" in summary.left_out["artist 3/3.wav"]
    assert summary.skipped + summary.encoded == 3
    assert summary.vanished == []


def test_where_only_a_changed_file_is_left_the_hint_says_how_to_go_on(tmp_path: Path, vae: VAE) -> None:
    add_track(tmp_path / "data", 1, 900, bytes=5)
    with pytest.raises(DataError, match="was changed since it was prepared") as caught:
        encode(tmp_path / "data", tmp_path / "store", vae)
    assert "musicldm preprocess" in caught.value.hint


def test_a_track_without_a_sample_is_left_out(data: Path, tmp_path: Path, vae: VAE) -> None:
    add_track(data, 3, 0)
    assert encode(data, tmp_path / "store", vae).left_out == {"artist 3/3.wav": "It is empty."}


def test_what_vanished_is_named_and_dropped_on_demand(data: Path, tmp_path: Path, vae: VAE) -> None:
    other = tmp_path / "other"
    add_track(other, 9, 800)
    for folder in (data, other):
        assert encode(folder, tmp_path / "store", vae).vanished == []
    failed = {"source": "0.mp3", "status": "failed", "reason": "Its waveform is gone.", "path": "artist 0/0.wav"}
    open_manifest(data).append(failed)
    summary = encode(data, tmp_path / "store", vae)
    assert (summary.vanished, summary.pruned, summary.tracks) == (["artist 0/0.wav"], 0, 4)
    summary = encode(data, tmp_path / "store", vae, prune=True)
    assert (summary.vanished, summary.pruned, summary.tracks) == (["artist 0/0.wav"], 1, 3)
    titles = {entry.title for entry in LatentStore.open(tmp_path / "store").tracks}
    assert titles == {"Title 1", "Title 2", "Title 9"}, "another folder's tracks are none of this one's business"
    summary = encode(data, tmp_path / "store", vae, prune=True)
    assert (summary.vanished, summary.pruned, summary.tracks) == ([], 0, 3)


def test_a_file_with_another_sound_takes_the_place_of_the_one_before(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "store", vae)
    add_track(data, 1, 1500, content="another")
    summary = encode(data, tmp_path / "store", vae, prune=True)
    assert (summary.encoded, summary.skipped, summary.tracks) == (1, 2, 3)
    tracks = LatentStore.open(tmp_path / "store").tracks
    assert {(entry.title, entry.samples) for entry in tracks} == {
        ("Title 0", 2000),
        ("Title 1", 1500),
        ("Title 2", 777),
    }


def test_fewer_bits_are_written_down(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "exact", vae)
    encode(data, tmp_path / "store", vae, precision="bf16")
    exact, store = (LatentStore.open(tmp_path / name) for name in ("exact", "store"))
    for entry, rounded in zip(exact.tracks, store.tracks, strict=True):
        assert (entry.provenance, rounded.provenance) == ({"licence": "CC0"}, {"licence": "CC0", "precision": "bf16"})
        assert entry.key == rounded.key
        assert not np.array_equal(exact.read(entry)[0], store.read(rounded)[0])
    with pytest.raises(UsageError, match="Unknown precision"):
        encode(data, tmp_path / "new", vae, precision="64")


def test_a_vae_that_breaks_on_a_track_leaves_that_track_out(data: Path, tmp_path: Path, vae: VAE) -> None:
    class Fragile(VAE):
        def encode(self, waveform: torch.Tensor):  # type: ignore[no-untyped-def]
            posterior = super().encode(waveform)
            if waveform.shape[-1] == 784:  # 777 and the silence that fills the last frame
                posterior.mean[0, 1, 5] = torch.nan
            return posterior

    fragile = Fragile(CONFIG).eval().requires_grad_(False)
    fragile.load_state_dict(vae.state_dict())
    fragile.name, fragile.weights_hash = vae.name, vae.weights_hash
    summary = encode(data, tmp_path / "store", fragile)
    assert summary.encoded == 2
    assert summary.left_out == {"artist 2/2.wav": "The latents of Artist 2 – Title 2 are not all finite numbers."}


def test_a_track_that_changed_its_split_is_named(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "store", vae)
    add_track(data, 1, 1999, split="heldout")
    summary = encode(data, tmp_path / "store", vae)
    assert (summary.encoded, summary.skipped) == (0, 2)
    assert "'train', now it is 'heldout'" in summary.left_out["artist 1/1.wav"]


def test_a_store_of_another_vae_is_refused_with_both_names(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "store", vae)
    vae.name, vae.weights_hash = "drums", "beef" * 16
    with pytest.raises(MismatchError, match=r"'toy' \(c0ffeec0\), not with 'drums' \(beefbeef\)"):
        encode(data, tmp_path / "store", vae)
    vae.weights_hash = ""
    with pytest.raises(UsageError, match="no hash"):
        encode(data, tmp_path / "store", vae)


def test_a_place_that_is_no_store_is_refused(data: Path, tmp_path: Path, vae: VAE) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not empty"):
        encode(data, tmp_path / "notes", vae)
    with pytest.raises(OutputError, match=r"letter\.txt"):
        encode(data, tmp_path / "notes" / "letter.txt", vae)
    with pytest.raises(DataError, match="no prepared music"):
        encode(tmp_path / "notes", tmp_path / "store", vae)


# ---- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, vae: VAE) -> Path:
    bundle.write(tmp_path / "vae" / "bundle", bundle.Bundle("toy", {"codec": vae.component()}))
    return tmp_path / "vae"


def run(*arguments: object):  # type: ignore[no-untyped-def]
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])


def test_the_command_prints_the_store_and_says_what_it_did(data: Path, tmp_path: Path, saved: Path) -> None:
    result = run(data, tmp_path / "store", "--vae", saved)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'store'}\n"
    assert "3 tracks encoded" in result.stderr
    assert LatentStore.open(tmp_path / "store").header.codec_hash == VAE.load(saved).weights_hash

    result = run(data, tmp_path / "store", "--vae", saved / "bundle", "--json", "--quiet")
    about = json.loads(result.stdout)
    assert (about["encoded"], about["skipped"], about["tracks"]) == (0, 3, 3)
    assert about["store"] == str(tmp_path / "store")
    assert about["bytes"] > 0
    assert result.stderr == ""


def test_another_artist_of_what_is_encoded_already_is_said(data: Path, tmp_path: Path, saved: Path) -> None:
    """A store's tracks are never changed: it keeps whose they were."""
    assert run(data, tmp_path / "store", "--vae", saved).exit_code == 0
    records = list(open_manifest(data).records.values())
    open_manifest(data).append(records[0] | {"artist": "Somebody else"})
    open_manifest(data).append(records[1] | {"artist": records[1]["artist"].upper()})  # the same in capitals
    result = run(data, tmp_path / "store", "--vae", saved, "--json")
    assert json.loads(result.stdout)["relabelled"] == 1
    assert "Tracks with a different artist in" in result.stderr


def test_what_was_left_out_fails_only_a_strict_run(data: Path, tmp_path: Path, saved: Path) -> None:
    add_track(data, 3, 900, rate=8000)
    result = run(data, tmp_path / "store", "--vae", saved, "--quiet")
    assert result.exit_code == 0
    assert "Left out artist 3/3.wav: It has 8000 samples" in result.stderr
    result = run(data, tmp_path / "store", "--vae", saved, "--strict")
    assert result.exit_code == 1
    assert result.stdout


def test_the_command_names_what_vanished_and_drops_it_on_demand(data: Path, tmp_path: Path, saved: Path) -> None:
    for number in range(4, 9):
        add_track(data, number, 500)
    run(data, tmp_path / "store", "--vae", saved)
    for number in range(4, 9):
        gone = {"source": f"{number}.mp3", "status": "failed", "path": f"artist {number}/{number}.wav"}
        open_manifest(data).append(gone)
    told = run(data, tmp_path / "store", "--vae", saved).stderr
    assert f"5 tracks have vanished from {data}, but not from the store; --prune drops them: " in told
    assert "artist 6/6.wav, …." in told and "artist 7" not in told
    done = run(data, tmp_path / "store", "--vae", saved, "--prune", "--json")
    assert "and were dropped" in done.stderr
    assert (json.loads(done.stdout)["pruned"], json.loads(done.stdout)["tracks"]) == (5, 3)


def test_options_that_change_the_speed_change_no_latents(data: Path, tmp_path: Path, saved: Path) -> None:
    run(data, tmp_path / "one", "--vae", saved)
    speed = ("--batch-size", 3, "--jobs", 2, "--window-seconds", 0.3)
    assert run(data, tmp_path / "two", "--vae", saved, *speed).exit_code == 0
    one, two = (LatentStore.open(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(one.tracks, two.tracks, strict=True):
        np.testing.assert_allclose(one.read(a)[0], two.read(b)[0], rtol=2e-3, atol=1e-4)
    assert run(data, tmp_path / "two", "--vae", saved, "--batch-size", "auto").exit_code == 0
    for wrong in ("0", "-1", "many"):
        assert run(data, tmp_path / "two", "--vae", saved, "--batch-size", wrong).exit_code == 2


def test_an_interrupted_command_says_what_is_kept(
    data: Path, tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "encode", interrupted)
    result = run(data, tmp_path / "store", "--vae", saved)
    assert result.exit_code == 130
    assert "every track that was complete" in result.stderr


def test_no_bundle_is_an_error_of_the_bundle(data: Path, tmp_path: Path) -> None:
    result = run(data, tmp_path / "store", "--vae", tmp_path / "nothing")
    assert isinstance(result.exception, BundleError)


def test_the_summary_is_plain_data(data: Path, tmp_path: Path, vae: VAE) -> None:
    add_track(data, 8, 500, rate=8000)
    summary = dataclasses.asdict(encode(data, tmp_path / "store", vae))
    assert json.loads(json.dumps(summary)) == summary
    assert summary["encoded"] == summary["tracks"] == len(read_tracks(data)) - 1
    assert list(summary["left_out"]) == ["artist 8/8.wav"]


def test_a_compressed_store_stays_so(data: Path, tmp_path: Path, vae: VAE) -> None:
    encode(data, tmp_path / "plain", vae)
    encode(data, tmp_path / "packed", vae, keep_bits=4)
    plain, packed = LatentStore.open(tmp_path / "plain"), LatentStore.open(tmp_path / "packed")
    assert packed.header.keep_bits == 4
    for one, other in zip(plain.tracks, packed.tracks, strict=True):
        for exact, rounded in zip(plain.read(one), packed.read(other), strict=True):
            np.testing.assert_allclose(rounded, exact, rtol=2**-5)
            assert (rounded != exact).any()
    add_track(data, 3, 500)
    assert encode(data, tmp_path / "packed", vae).encoded == 1, "the store says how"
    with pytest.raises(MismatchError, match="compressed to 4 bits; tracks compressed to 5 cannot go there"):
        encode(data, tmp_path / "packed", vae, keep_bits=5)
    with pytest.raises(MismatchError, match="is uncompressed"):
        encode(data, tmp_path / "plain", vae, keep_bits=4)


def test_any_codec_will_do(tmp_path: Path) -> None:
    """One that is no VAE, nor even a torch module: the store knows its spec and nothing else."""

    class OfAudio(ToyCodec):
        @property
        def spec(self) -> LatentSpec:
            return replace(super().spec, medium="audio")

    codec, data = OfAudio(), tmp_path / "data"
    path = add_track(data, 0, 5001, rate=codec.spec.rate, channels=codec.spec.media_channels)
    assert encode(data, tmp_path / "store", codec, window_seconds=20).encoded == 1
    store = LatentStore.open(tmp_path / "store")
    assert store.header.spec == codec.spec
    mean, _ = store.read(store.tracks[0])
    whole = codec.encode(torch.from_numpy(files.read(path))[None]).mean[0].T.numpy()
    np.testing.assert_allclose(mean, whole, atol=1e-3)
    with pytest.raises(MismatchError, match=r"^The store .* was made with the codec 'toy'"):
        store.require(replace(store.header, codec="vae"))
