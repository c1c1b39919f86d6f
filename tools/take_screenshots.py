"""Pictures for the book: the report on the demo corpus, and the page of a run of it.

    make demo
    python tools/take_screenshots.py runs/demo/run

needs Chromium with its chromedriver. Pictures go to docs/images as WebP.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vits_jax import cli
from vits_jax.commands import check
from vits_jax.errors import RunFailed, UserError

ROOT = Path(__file__).resolve().parent.parent
DEMO = "examples/demo"
WIDE, PHONE = (1100, 1300), (390, 844)  # pixels of the page: width, height


class NoBrowser(Exception):
    """There is no Chromium with its chromedriver on this machine."""


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser without a window, which keeps its logs.

    Raises:
        NoBrowser: there is none.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise NoBrowser("no chromium with its chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options, Service(driver))
    try:
        started.set_script_timeout(120)
        yield started
    finally:
        started.quit()


def picture(browser: Any, url: str, size: tuple[int, int]) -> Image.Image:
    """What a page shows first, in a window of that size, whatever the window's least one is."""
    width, height = size
    narrow = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    browser.get(url)
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def main(argv: Sequence[str] | None = None) -> int:
    """The script; returns its exit code."""
    return cli.run(_main, argv)


def _main(argv: Sequence[str]) -> None:
    parser = cli.Parser("take_screenshots.py", "Pictures for the book.")
    parser.add_argument("run", metavar="RUN", help="a run directory of the demo")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    flags = parser.parse(argv)
    page = Path(flags.run).resolve() / "report.html"
    if not page.is_file():
        raise UserError(f"{page} does not exist: make demo trains such a run")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "check.html"
        words = [DEMO, "--language", "en-us", "--sample-rate", "16000", "--html", str(report)]
        # From there, as the report says where the corpus is.
        with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()):
            code = check.main(words)
        if code:
            raise RunFailed(f"check ended with exit code {code}")
        try:
            with chromium("--force-prefers-reduced-motion") as browser:
                for name, url, size in (
                    ("demo-check", report.as_uri(), WIDE),
                    ("demo-run", page.as_uri(), WIDE),
                    ("demo-run-phone", page.as_uri(), PHONE),
                ):
                    path = flags.out / f"{name}.webp"
                    picture(browser, url, size).save(path, quality=80, method=6)
                    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        except NoBrowser as error:
            raise UserError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
