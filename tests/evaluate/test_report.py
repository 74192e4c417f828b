"""The page: one file that asks for nothing, escapes everything, and plays in a real browser."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musicldm.core.errors import MissingProgramError, OutputError
from musicldm.evaluate.report import Page, Sound, check_target
from musicldm.media.audio.decode import decode
from musicldm.media.audio.spectrogram import thumbnail
from tests.pages import PLAYS, Elements

RATE = 8000
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"


def tone(seconds: float, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    return np.tile(wave.astype(np.float32), (channels, 1))


def page() -> Page:
    """One of everything, with names that would break a page."""
    made = Page(EVIL, EVIL)
    made.section(EVIL, EVIL)
    made.table([EVIL, "value"], [[EVIL, 1.23456], ["none", None]], EVIL)
    made.facts({EVIL: EVIL})
    made.players([Sound(EVIL, tone(1), RATE, EVIL), Sound("long-name-" * 20, tone(9, channels=2), RATE)])
    made.pair(EVIL, [Sound("sample", tone(1), RATE), Sound("passage", tone(1, 220), RATE)], EVIL)
    made.curve(EVIL, {EVIL: [(5, 0.9), (20, 0.4), (1000, 0.35)], "other": [(5, float("nan")), (50, 0.2)]}, EVIL, EVIL)
    made.picture(thumbnail(tone(1), RATE), EVIL)
    return made


def test_names_cannot_break_the_page() -> None:
    seen = Elements(page().html())
    assert [name for name, _ in seen.found].count("script") == 1
    assert not any(key.startswith("on") for _, attributes in seen.found for key in attributes)
    assert EVIL in seen.text  # as it is, for people
    assert {(each or "").partition(":")[0] for _, a in seen.found for key, each in a.items() if key == "src"} == {
        "data"
    }


def test_figures_read_as_they_should() -> None:
    text = Elements(page().html()).text
    assert "1.235" in text and "1.23456" not in text
    made = Page("title")
    made.curve("empty", {"a": [(1.0, float("inf"))]}, "steps", "distance")
    made.curve("flat", {"a": [(10.0, 3.0)]}, "steps", "distance")
    assert "nothing to draw" in made.html() and "nan" not in made.html() and made.html().count("<circle") == 1


def test_sounds_are_embedded_whole(tmp_path: Path) -> None:
    """Small ones as WAV to the last bit, large ones as mp3 at the same length and pitch."""
    small, large, *_ = Elements(page().html()).sources("audio")
    audio, rate = soundfile.read(io.BytesIO(small), dtype="float32", always_2d=True)
    assert rate == RATE and np.abs(audio.T - tone(1)).max() <= 1 / 32768
    assert len(large) < 9 * RATE * 2 * 2 / 2  # half of a WAV at most
    (tmp_path / "large.mp3").write_bytes(large)
    heard = np.concatenate(list(decode(tmp_path / "large.mp3", RATE, 1)), axis=1)
    assert abs(heard.shape[1] - 9 * RATE) < 0.2 * RATE
    assert abs(np.abs(np.fft.rfft(heard[0])).argmax() * RATE / heard.shape[1] - 440) < 1


def test_without_ffmpeg_large_sounds_are_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise MissingProgramError("none")

    monkeypatch.setattr("musicldm.media.audio.files.find_ffmpeg", none)
    made = Page("title")
    made.players([Sound("large", tone(20), RATE)])
    (large,) = Elements(made.html()).sources("audio")
    assert soundfile.info(io.BytesIO(large)).frames == 20 * RATE


def test_a_sound_of_nothing_or_of_no_numbers_still_makes_a_page() -> None:
    made = Page("title")
    made.players([Sound("empty", np.zeros((1, 0), np.float32), RATE)])
    made.players([Sound("nan", np.full((1, 4000), np.nan, np.float32), RATE)])
    assert len(Elements(made.html()).sources("audio")) == 2


def test_where_it_cannot_go_is_said_before_the_work(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none" / "report.html", "There is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(OutputError, match=words) as error:
            check_target(path)
        assert error.value.hint
        with pytest.raises(OutputError, match=words):
            Page("title").write(path)
    assert list(tmp_path.iterdir()) == []


def test_only_a_page_that_nobody_has_changed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page().write(path)
    made = path.read_bytes()
    path.write_bytes(made[: made.rindex(b"<!-- musicldm")])  # as release 0.1 wrote it
    page().write(path)
    assert path.read_bytes() == made
    for mine in (made.replace(b"<main>", b"<main>My notes."), made + b"<!-- mine -->", b"<html>", b"", b"\xff\xfe"):
        path.write_bytes(mine)
        for attempt in (lambda: check_target(path), lambda: page().write(path)):
            with pytest.raises(OutputError, match="is not replaced"):
                attempt()  # type: ignore[no-untyped-call]
        assert path.read_bytes() == mine
    check_target(path, overwrite=True)
    page().write(path, overwrite=True)
    assert path.read_bytes() == made and len(list(tmp_path.iterdir())) == 1


def test_a_thumbnail_shows_where_the_sound_is() -> None:
    """Time from left to right, pitch from bottom to top."""
    half = np.concatenate([np.zeros((1, RATE), np.float32), tone(1, 3000)], axis=1)
    import matplotlib.image

    image = matplotlib.image.imread(io.BytesIO(thumbnail(half, RATE)))[..., :3].sum(axis=-1)
    rows, columns = image.shape
    assert image[:, columns // 2 + 2 :].mean() > 5 * image[:, : columns // 2 - 2].mean()
    assert image[: rows // 2, -columns // 4].argmax() < rows // 4
    assert matplotlib.image.imread(io.BytesIO(thumbnail(tone(30), RATE, columns=100))).shape[1] == 100


# ---- In a browser ----------------------------------------------------------------------------------------------------


def test_it_plays_shows_and_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    page().write(tmp_path / "report.html")
    requested: list[str] = []
    complaints: list[str] = []

    def dismiss(dialog: Any) -> None:
        complaints.append("an alert")
        dialog.dismiss()

    for width, scheme in ((390, "dark"), (1200, "light")):
        tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        tab.set_default_timeout(300_000)  # a busy machine's affair
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", dismiss)
        tab.on("request", lambda request: requested.append(request.url.partition(":")[0]))
        tab.goto((tmp_path / "report.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        pictures = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(pictures) == 5 and all(each > 0 for each in pictures)
        back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = sum(map(int, re.findall(r"\d+", back))) / 3
        assert shade < 60 if scheme == "dark" else shade > 200
        for number in (0, 1):  # a WAV and an mp3; a click into the picture plays from there
            tab.locator(".seen").nth(number).click()
            assert tab.evaluate(PLAYS, number) == "plays"
        tab.close()
    assert complaints == [] and set(requested) <= {"file", "data"}
