"""The page of a run, as a browser has it: it loads, plays, tells, and lets choose by ear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import RATE, small, write_dataset
from tests.serving import served
from tools.take_screenshots import NoBrowser, chromium
from vits_jax.data.manifest import load_dataset
from vits_jax.metrics.verdict import Verdict
from vits_jax.training import pictures
from vits_jax.training.evaluation import Picture, Sound
from vits_jax.training.loggers import Records
from vits_jax.training.run_page import RunPage, trained_hours
from vits_jax.training.samples import NEWEST, Samples, steps

STEPS = (100, 200, 300)
VERDICT = Verdict("plateau", "nothing gained since step 200", "listen, and stop here")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three validations, of which the last two have checkpoints."""
    directory = tmp_path_factory.mktemp("a run & its page")
    dataset = write_dataset(directory / "data")
    run_dir = directory / "run"
    run_dir.mkdir()
    records, samples = Records(run_dir, 0), Samples(run_dir)
    random = np.random.default_rng(1)
    for step in range(1, 301):
        noise = 0.1 * random.normal()
        records.scalars(step, {"train/mel": 2 * 0.99**step + noise, "train/kl": 1.0, "epoch": 0})
        if step not in STEPS:
            continue
        records.scalars(step, {"validation/mel": 2.1 * 0.99**step, "validation/kl": 1.1})
        records.scalars(step, {"examples/level": -20.0, "examples/recorded_level": -18.0})
        records.scalars(step, {"speed/steps_per_second": 2.0})
        for number in range(2):
            time = np.arange(RATE) / RATE
            tone = 0.5 * np.sin(2 * np.pi * (step + 100 * number) * time).astype(np.float32)
            samples.keep(step, Sound("a text", tone, RATE, f"{number}"))
            mel = pictures.mel(random.normal(size=(80, 20)))
            for file in (f"{number}", f"{number}.recorded"):
                samples.keep(step, Picture("a text", mel, file))
    records.close()
    for step in STEPS[1:]:
        (run_dir / "checkpoints" / str(step)).mkdir(parents=True)
    config = small(dataset, run_dir, price=1.5)
    data = load_dataset(dataset, hop_length=16, min_samples=config.audio.min_samples)
    RunPage(run_dir, config, data, np.array([0, 1]), 1000).write(300, VERDICT)
    return run_dir


def test_it_needs_nothing_else(run_dir: Path):
    page = (run_dir / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)=["'](?!data:)[^"']*|https?://[^\s"'<]+|@import""", page)
    assert outside == []
    assert len(page) < 2_000_000


def test_what_is_between_two_starts_is_not_training():
    lines = [{"time": float(t)} for t in (0, 600, 1200, 90_000, 90_600)]
    assert trained_hours(lines) == pytest.approx(0.5)


def test_samples_stay_with_their_checkpoints_and_the_newest(tmp_path: Path):
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    samples, sound = Samples(tmp_path), Sound("x", np.zeros(100, np.float32), RATE, "0")
    for step in range(1, 9):
        samples.keep(step, sound)
    assert steps(tmp_path)[0] == 2
    assert len(steps(tmp_path)) <= 1 + NEWEST + 1
    assert 8 in steps(tmp_path)


# In Chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playing = "--autoplay-policy=no-user-gesture-required", "--force-prefers-reduced-motion"
    try:
        with chromium(*playing) as started:
            yield started
    except NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture(params=["file", "http"])
def page(request: pytest.FixtureRequest, run_dir: Path, browser: Any) -> Iterator[Any]:
    """Open, from the file system or from ``python -m http.server``."""
    if request.param == "file":
        browser.get((run_dir / "report.html").as_uri())
        browser.execute_script("localStorage.clear(); location.reload()")
        yield browser
    else:
        with served(run_dir) as address:
            browser.get(f"{address}/report.html")
            yield browser
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def until(browser: Any, script: str) -> Any:
    """What a script gives, once that is something."""
    from selenium.webdriver.support.ui import WebDriverWait

    def found(driver: Any) -> Any:
        return driver.execute_script(script)

    return WebDriverWait(browser, 120).until(found)


def test_it_tells_the_verdict_and_every_sentence(page: Any):
    assert "plateau" in page.title
    said = page.find_element("css selector", ".verdict").text
    assert "nothing gained since step 200" in said
    assert len(page.find_elements("css selector", "section")) == 2
    assert "cost so far" in page.find_element("css selector", ".tiles").text


def test_every_player_plays_and_every_picture_is_one(page: Any):
    count = len(page.find_elements("css selector", "audio"))
    assert count == 2 * (1 + len(STEPS))
    page.execute_script(
        "window.played = 0; for (const a of document.querySelectorAll('audio')) { a.muted = true;"
        "a.ontimeupdate = () => { if (a.currentTime > 0) { played++; a.ontimeupdate = null; } };"
        "a.play(); }"
    )
    until(page, f"return window.played === {count}")
    assert page.execute_script(
        "for (const d of document.querySelectorAll('details')) d.open = true;"
        "return [...document.images].length"
    )
    until(page, "return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_two_checkpoints_are_told_apart_blindly(page: Any):
    from selenium.webdriver.common.keys import Keys

    assert page.execute_script("return [get('one').value, get('other').value]") == ["200", "300"]
    page.find_element("id", "play-a").click()
    until(
        page,
        "return [...document.querySelectorAll('audio[data-step]')].filter(a => !a.paused).length",
    )
    # Prefers 300, wherever it is.
    for _ in range(6):
        index = page.execute_script("return pair.steps.indexOf('300')")
        page.find_element("id", ("better-a", "better-b")[index]).click()
    body = page.find_element("css selector", "body")
    body.send_keys(("a", "b")[page.execute_script("return pair.steps.indexOf('300')")])
    body.send_keys("n")
    told = page.find_element("id", "result").text
    # Wilson's interval for 7 of 7.
    assert "step 300: 7 of 7 (65 to 100 %), 1 without a difference: preferred" in told
    assert "export_onnx" in told
    assert "checkpoints/300 voice.onnx" in told
    page.refresh()
    assert "step 300: 7 of 7" in page.find_element("id", "result").text, "kept in the browser"
    select = page.find_element("id", "one")
    select.send_keys(Keys.END)
    assert page.execute_script("return get('play-a').disabled"), "a checkpoint against itself"
    page.find_element("id", "forget").click()
    page.refresh()
    assert page.find_element("id", "result").text == ""


def test_names_for_those_who_do_not_see(page: Any):
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('audio, img, svg, button, select')].filter("
        "e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim()"
        " || e.closest('label'))).length"
    )
    assert unnamed == 0
    curve = page.find_element("css selector", "svg[role=img]").get_attribute("aria-label")
    assert re.search(r"mel loss: training from \S+ at step \d+ to \S+ at step 300", curve)
    assert page.find_element("css selector", "html").get_attribute("lang") == "en"
    # All that can be used is reached by the tabulator.
    unreachable = page.execute_script(
        "return [...document.querySelectorAll('audio, button, select, summary')].filter("
        "e => !e.disabled && e.tabIndex < 0).length"
    )
    assert unreachable == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_it_fits_a_phone_and_a_desk(page: Any, width: int, scheme: str):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    wide = page.execute_script("return document.documentElement.scrollWidth")
    colour, ground = page.execute_script(
        "const s = getComputedStyle(document.body); const p = document.createElement('i');"
        "p.style.color = 'Canvas'; document.body.append(p);"
        "return [s.color, getComputedStyle(p).color]"
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width

    def light(text: str) -> float:
        return float(np.mean([float(n) for n in re.findall(r"[\d.]+", text)[:3]]))

    assert (light(colour) > light(ground)) == (scheme == "dark")
