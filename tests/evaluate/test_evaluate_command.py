"""`musicldm evaluate vae` and `samples`, on models and music of toy size."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from musicldm.codecs.vae.model import VAE
from musicldm.codecs.windows import reconstruct
from musicldm.core import bundle
from musicldm.core.errors import BundleError
from musicldm.evaluate.clap import Clap
from musicldm.evaluate.metrics import mel_distance, si_sdr
from musicldm.evaluate.samples import WHITE, evaluate_samples
from musicldm.media.audio import files
from tests.evaluate.evaluations import bias, figures, parsed, song, speaking_vae
from tests.pages import PLAYS, Elements
from tests.toy_model import RATE
from tests.toys import Command

# ---- The VAE ---------------------------------------------------------------------------------------------------------


def test_a_vae_in_figures(root: Path, musicldm: Command) -> None:
    done = musicldm("evaluate", "vae", root / "model", root / "songs", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    told = parsed(done.out)
    assert [track["name"] for track in told["tracks"]] == [f"song {number}.wav" for number in range(4)]
    model, track = VAE.load(root / "model"), told["tracks"][1]
    audio = torch.from_numpy(files.read(root / "songs" / "song 1.wav"))
    with torch.inference_mode():
        posterior = model.encode(audio[None])
        made = model.decode(posterior.mode())[0, :, : audio.shape[1]]
    assert track["figures"]["si_sdr"] == pytest.approx(si_sdr(audio, made).item(), abs=0.01)
    assert track["figures"]["mel"] == pytest.approx(mel_distance(audio, made, RATE).item(), rel=1e-3)
    levels = [10 * np.log10(each.square().mean().item()) for each in (audio, made)]
    assert track["loudness"] == pytest.approx(levels[1] - levels[0], abs=5)
    overall = told["overall"]["mel"]
    values = [each["figures"]["mel"] for each in told["tracks"]]
    assert overall["value"] == pytest.approx(np.mean(values)) and min(values) <= overall["low"] < overall["high"]
    assert told["relative_size"] == pytest.approx(4 / 64) and told["seconds"] == pytest.approx(120)
    assert len(told["channels"]) == 4 and told["noise"]["excerpts"] == 4
    assert told["noise"]["moved"]["value"] > 0
    every = [model.encode(torch.from_numpy(files.read(path))[None]) for path in sorted((root / "songs").glob("*.wav"))]
    kl = torch.cat([each.kl_per_element()[0] for each in every], dim=1).mean(dim=1)
    assert [each["kl"] for each in told["channels"]] == pytest.approx(kl.tolist(), rel=1e-3)


def test_dead_channels_are_named(root: Path, musicldm: Command, tmp_path: Path) -> None:
    model = speaking_vae()
    with torch.no_grad():
        model.encoder.head.weight[2].zero_()
        bias(model.encoder.head)[2] = 0.5
    bundle.write(tmp_path, bundle.Bundle("half dead", {"codec": model.component()}))
    done = musicldm("evaluate", "vae", tmp_path, root / "data", "--device", "cpu")
    assert done.code == 0 and "4, dead: 2" in done.out and "heldout tracks: means over 1 track" in done.out, done.out
    told = parsed(musicldm("evaluate", "vae", tmp_path, root / "data", "--split", "all", "--json").out)
    assert told["dead"] == [2] and len(told["tracks"]) == 4


def test_a_vae_on_silence_and_on_nothing(root: Path, musicldm: Command, tmp_path: Path) -> None:
    (tmp_path / "silence").mkdir()
    soundfile.write(tmp_path / "silence" / "a.wav", np.zeros(RATE), RATE)
    (tmp_path / "silence" / "b.wav").write_text("no music")
    done = musicldm("evaluate", "vae", root / "model", tmp_path / "silence", "--json")
    told = parsed(done.out)
    assert "Left out b.wav" in done.err and told["overall"]["si_sdr"]["value"] is None
    assert told["tracks"][0]["loudness"] is None and np.isfinite(told["overall"]["mel"]["value"])
    (tmp_path / "silence" / "a.wav").unlink()
    for place, sentence in (
        (tmp_path / "nowhere", "There is nothing at"),
        (tmp_path / "silence", "can be used; b.wav: It cannot be read as audio"),
    ):
        done = musicldm("evaluate", "vae", root / "model", place)
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, done.err


# ---- Samples ---------------------------------------------------------------------------------------------------------


def test_samples_against_music_and_against_a_store(root: Path, musicldm: Command) -> None:
    arguments = "evaluate", "samples", root / "out", "--json", "--pieces", 12, "--split", "all"
    by_data = parsed(musicldm(*arguments, "--reference", root / "data", "--model", root / "model").out)
    by_store = parsed(musicldm(*arguments, "--reference", root / "z.zarr").out)
    for told in (by_data, by_store):
        names = [each["name"] for each in told["sets"]]
        assert names == ["samples", "half of the reference", "reference through the codec", "decoded noise", WHITE]
        here, noise = figures(told), figures(told, "decoded noise")
        for name in ("latent", "mel"):
            for metric in ("frechet", "frechet_infinity", "mmd", "density", "coverage"):
                figure = here[metric, name]
                assert np.isfinite(figure["estimate"]["value"]), (metric, name)
                assert (figure["sounds"], figure["seconds"], figure["against"]) == (9, 13, 8)
        assert set(told["embeddings"]) == {"latent", "mel", "excerpts"} and "8 pieces of 13 s" in told["reference"]
        for metric in ("overlap", "consistency", "variance"):
            assert 0 <= here[metric, "chroma"]["estimate"]["value"] <= 1
        assert len(told["samples"]) == 9 and told["clipped"] == told["silent"] == []
        assert noise["frechet", "mel"]["estimate"]["value"] > 0
        assert here["two_sample", "excerpts"]["estimate"]["note"] == "needs 6 tracks of each"  # there are four songs
    # The samples are such music as the reference is, and an untrained VAE's noise is not.
    here, noise = figures(by_data), figures(by_data, "decoded noise")
    for which in (("frechet", "latent"), ("frechet", "mel"), ("mmd", "mel")):
        assert 2 * here[which]["estimate"]["value"] < noise[which]["estimate"]["value"], which


def test_what_is_printed_names_everything(root: Path, musicldm: Command) -> None:
    done = musicldm("evaluate", "samples", root / "out", "--reference", root / "songs", "--no-baselines")
    assert done.code == 0, done.err
    for words in (
        "Fréchet distance",
        "MMD²",
        "coverage",
        "9 × 13 s",
        "all files: 8 pieces of 13 s",
        "log-mel frames at",
    ):
        assert words in done.out
    assert "too few to rely on" in done.out and "There is no codec" in done.err and "latent:" not in done.out
    assert "none clips, none with a second of silence" in done.out


def test_without_a_reference_levels_are_told(root: Path, musicldm: Command, tmp_path: Path) -> None:
    loud = np.clip(4 * song(1, 13), -1, 1)
    loud[RATE : 3 * RATE] = 0
    soundfile.write(tmp_path / "loud.wav", loud, RATE)
    done = musicldm("evaluate", "samples", tmp_path, root / "out" / "take 1.wav")
    assert done.code == 0 and "Name one with --reference" in done.err
    assert "2 samples" in done.out and "1 clip, 1 with a second of silence" in done.out
    assert "longest silence 2." in done.out and "overlap of windows" in done.out


def test_one_sample_and_silence_give_finite_figures(root: Path, musicldm: Command, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(3 * RATE), RATE)
    done = musicldm("evaluate", "samples", tmp_path, "--reference", root / "data", "--model", root / "whole", "--json")
    told = parsed(done.out)
    assert done.code == 0 and "One sample" in done.err and "All samples are silent" in done.err
    assert "no self-similarity" in done.err
    here = figures(told)
    assert here["frechet", "mel"]["estimate"]["value"] > 0
    assert here["mmd", "mel"]["estimate"] == {
        "value": None,
        "low": None,
        "high": None,
        "note": here["mmd", "mel"]["estimate"]["note"],
    }
    assert told["samples"][0]["level"]["rms"] is None and told["silent"] == ["silence.wav"]
    # Silence in the place of the music.
    result = evaluate_samples([root / "out"], tmp_path, root / "model")
    found = {(each.metric, each.embedding): each.estimate.value for each in result.sets[0].figures}
    assert np.isfinite(found["frechet", "mel"] or np.nan)


def test_what_cannot_be_compared(root: Path, musicldm: Command, tmp_path: Path) -> None:
    other = VAE(VAE.load(root / "model").config)
    bundle.write(tmp_path / "other", bundle.Bundle("other", {"codec": other.component()}))
    for name in ("short", "nothing", "tiny"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "short" / "a.wav", song(1, 0.5), RATE)
    soundfile.write(tmp_path / "tiny" / "a.wav", song(1, 0.5), RATE)
    out, model = root / "out", ["--model", root / "model"]
    for arguments, sentence in (
        ([out, "--reference", root / "z.zarr", "--model", tmp_path / "other"], "was made with the codec"),
        ([out, "--reference", tmp_path / "nowhere", *model], "There is nothing at"),
        ([out, "--reference", tmp_path / "nothing", *model], "no audio files"),
        ([out, "--reference", tmp_path / "tiny", *model], "is as long as a second"),
        ([tmp_path / "nothing"], "no audio files"),
        ([tmp_path / "nowhere"], "There is nothing at"),
        ([tmp_path / "short"], "a.wav: It is 0.50 s long"),
        ([out, "--reference", root / "data", "--model", tmp_path / "nothing"], "no bundle in"),
    ):
        done = musicldm("evaluate", "samples", *arguments)
        assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (arguments, done.err)
        assert done.out == "" and "Traceback" not in done.err


# ---- Pages -----------------------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)<&script>.wav"


def opened(page: Path) -> Elements:
    """What is in a page, which asks for nothing and into which no name has broken."""
    seen = Elements(page.read_text(encoding="utf-8"))
    assert [name for name, _ in seen.found].count("script") == 1 and EVIL in seen.text
    wanted = [
        value or "" for _, attributes in seen.found for key, value in attributes.items() if key in ("src", "href")
    ]
    assert all(each.startswith("data:") for each in wanted)
    return seen


def heard(content: bytes) -> tuple[np.ndarray, int]:
    audio, rate = soundfile.read(io.BytesIO(content))
    return audio, rate


def test_a_page_of_samples(root: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against music, by a model that is named, with curves."""
    takes = {EVIL: song(1, 3), "b.wav": np.stack([song(2, 2, 2 * RATE), song(3, 2, 2 * RATE)], axis=1)}
    (tmp_path / "out").mkdir()
    for name, audio in takes.items():
        soundfile.write(tmp_path / "out" / name, audio, RATE if name == EVIL else 2 * RATE)
    cells: dict[str, tuple[float, float]] = {
        "noise": (10, 100),
        "held-out music through the VAE": (1, 5),
        "untrained, ddim 20": (9, 90),
    }
    cells |= {"ddim 50": (2, 40), "ddim 5": (6, 70), "unipc 5": (float("nan"), 60)}
    quality = {"cells": {name: {"latent": [latent, 0.1], "mel": [mel, 1]} for name, (latent, mel) in cells.items()}}
    (tmp_path / "quality.json").write_text(json.dumps(quality))
    page = tmp_path / "page.html"
    monkeypatch.setenv("MUSICLDM_MODELS", str(root))
    arguments = ["--reference", root / "songs", "--model", "model", "--no-baselines", "--pieces", 4, "--html", page]
    done = musicldm(
        "evaluate", "samples", tmp_path / "out", *arguments, "--steps-curve", tmp_path / "quality.json", "--json"
    )
    assert done.code == 0 and str(page) in done.err, done.err
    seen, figure = opened(page), figures(json.loads(done.out))["frechet", "latent"]["estimate"]["value"]
    assert "textures of a second, normalised latents" in seen.text
    assert f"Fréchet distancelatent{figure:.2f}" in seen.text and "all files: 4 pieces of 2.5 s" in seen.text
    for content, (name, audio) in zip(seen.sources("audio"), takes.items(), strict=True):
        found, rate = heard(content)
        assert rate == (RATE if name == EVIL else 2 * RATE)
        np.testing.assert_allclose(found, audio, atol=1e-4)
    points = ("ddim: 5, 0.6", "ddim: 50, 0.2", "unipc: 5, 0.6", "ddim: 5, 0.7", "held-out music: 50, 0.05")
    assert all(point in seen.text for point in points) and "nan" not in seen.text and "untrained" not in seen.text


def test_a_page_of_samples_in_a_browser(musicldm: Command, tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "page.html"
    complaints: list[str] = []

    def dismiss(dialog: Any) -> None:
        complaints.append("an alert")
        dialog.dismiss()

    for name in ("a.wav", EVIL):
        soundfile.write(tmp_path / name, song(1, 2), RATE)
    assert musicldm("evaluate", "samples", tmp_path, "--html", page).code == 0
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.set_default_timeout(300_000)  # a busy machine's affair
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("dialog", dismiss)
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.locator(".seen").nth(1).click()
    assert tab.evaluate(PLAYS, 1) == "plays"
    tab.close()
    assert complaints == []


def test_a_page_has_the_first_samples_of_many(root: Path, musicldm: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for number in range(21):
        soundfile.write(tmp_path / "out" / f"{number:02}.wav", song(number, 1), RATE)
    (tmp_path / "out" / "03.wav").rename(tmp_path / "out" / f"03{EVIL}")
    soundfile.write(tmp_path / "out" / "04.wav", song(4, 62), RATE)
    assert musicldm("evaluate", "samples", tmp_path / "out", "--html", tmp_path / "page.html").code == 0
    seen = opened(tmp_path / "page.html")
    assert "the first 20 of 21" in seen.text and len(seen.sources("audio")) == 20
    assert "the first 60 of 62 s" in seen.text and "20.wav" not in seen.text


def test_a_page_of_a_vae(root: Path, musicldm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "music").mkdir()
    for number in range(8):
        soundfile.write(tmp_path / "music" / f"{number}{EVIL}", song(number, 2 if number else 13), RATE)
    (tmp_path / "music" / "9.wav").write_text("no music")
    monkeypatch.setenv("MUSICLDM_MODELS", str(root))
    done = musicldm("evaluate", "vae", "model", tmp_path / "music", "--html", tmp_path / "page.html", "--json")
    assert done.code == 0, done.err
    seen, told = opened(tmp_path / "page.html"), json.loads(done.out)
    assert f"SI-SDR, dB{told['overall']['si_sdr']['value']:.2f} [" in seen.text and "9.wav" in seen.text
    sounds = [heard(content)[0] for content in seen.sources("audio")]
    assert len(sounds) == 12 and "from 0:01.5" in seen.text
    middle = song(0, 13)[3 * RATE // 2 :][: 10 * RATE]
    np.testing.assert_allclose(sounds[0], middle, atol=1e-4)
    np.testing.assert_allclose(sounds[-2], song(7, 2), atol=1e-4)
    with torch.inference_mode():
        made = reconstruct(VAE.load(root / "model"), torch.from_numpy(middle[None]).float())[0]
    np.testing.assert_allclose(sounds[1], made.clamp(-1, 1), atol=1e-3)


def test_where_no_page_can_go_is_said_before_any_work(musicldm: Command, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for which in (["vae", nowhere, nowhere], ["samples", nowhere], ["memory", nowhere, "--store", nowhere]):
        for page, sentence in ((nowhere / "page.html", f"There is no folder {nowhere}"), (tmp_path, "is a folder")):
            done = musicldm("evaluate", *which, "--html", page)
            assert done.code == 1 and sentence in done.err and "Hint:" in done.err, (which, done.err)
        mine = tmp_path / "mine.html"
        mine.write_text("<html>")
        done = musicldm("evaluate", *which, "--html", mine)
        assert done.code == 1 and f"{mine} is not replaced" in done.err and mine.read_text() == "<html>"
        done = musicldm("evaluate", *which, "--html", mine, "--overwrite")
        assert done.code == 1 and "not replaced" not in done.err and str(nowhere) in done.err, "the next fault"


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"cells": {"noise": {"latent": [0], "mel": [0]}}}', "{}"])
def test_what_is_no_curve_is_said_before_any_work(musicldm: Command, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "quality.json"
    if content is not None:
        file.write_text(content)
    samples = "evaluate", "samples", tmp_path / "nowhere", "--steps-curve", file
    done = musicldm(*samples, "--html", tmp_path / "page.html")
    assert done.code == 1 and str(file) in done.err and "Name the quality.json" in done.err
    done = musicldm(*samples)
    assert done.code != 0 and "Give one with --html" in done.err


# ---- CLAP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of a few thousand random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clap")
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 32,
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 4],
        "num_hidden_layers": 3,
        "projection_dim": 16,
    }
    text = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=16)
    transformers.ClapModel(config).eval().save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


def test_clap_gives_a_vector_for_each_ten_seconds(weights: Path, root: Path) -> None:
    clap = Clap(weights)
    audio = torch.from_numpy(song(0, 26)[None]).float()
    vectors = clap(audio, RATE)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[1], clap(audio[:, 10 * RATE : 20 * RATE], RATE)[0], atol=0.02)
    np.testing.assert_allclose(vectors, clap(audio, RATE), atol=1e-6)
    result = evaluate_samples([root / "out"], root / "data", clap=clap, pieces=6, baselines=False, split="all")
    found = {(each.metric, each.embedding): each for each in result.sets[0].figures}
    assert set(result.embeddings) == {"mel", "excerpts", "CLAP"} and found["frechet", "CLAP"].estimate.value is not None


def test_no_clap_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(BundleError, match="no CLAP model in safetensors"):
        Clap(tmp_path)
