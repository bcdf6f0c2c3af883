"""The pages look as they did: screenshots beside golden ones, small, with the video covered.

A golden screenshot is a third as wide as the page, of 64 colours, and holds the width of a line of text in the fonts
that it was made with: where fonts differ, the test is skipped. Two screenshots agree if their heights differ by at
most 2 %, all pixels by at most 3 of 255 grey levels on average, and at most 2 % of all squares of 10 x 10 pixels by
more than 20.

After a change that is meant, look at the new pictures and keep them:

    RENEW_GOLDEN=1 python -m pytest tests/test_golden_pages.py -m "slow or not slow"
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sage_va.fusion.report.page import page
from sage_va.tests.browser import start_browser
from sage_va.tests.fusion_view import drawn_viewing, serving
from sage_va.tests.report_contents import drawn_contents

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FOLDER = Path(__file__).parent / "golden" / "pages"
SCALE, COLOURS, MOST_BYTES = 1 / 3, 64, 100_000
HEIGHT_SHARE, MEAN_LEVELS, SQUARE, SQUARE_LEVELS, SQUARE_SHARE = 0.02, 3.0, 10, 20.0, 0.02
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "color_scheme": "light"},
}
FONTS = """(() => {
  const line = document.createElement("span");
  line.style.cssText = "position: absolute; white-space: nowrap; font-size: 100px";
  line.textContent = "Valence and arousal 0123456789 −0.75 ← →";
  document.body.append(line);
  const width = line.getBoundingClientRect().width;
  line.remove();
  return width.toFixed(1);
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from start_browser()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses of both pages."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "report.html").write_text(page(drawn_contents()), encoding="utf-8")
    with serving(drawn_viewing(folder)) as served:
        yield {"report": (folder / "report.html").as_uri(), "view": served.url}


def screenshot(browser: Any, address: str, look: dict[str, Any]) -> tuple[Image.Image, str]:
    """Returns a small screenshot of the whole page, and the width of a line of text."""
    context = browser.new_context(**look, reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("#viewer .uplot canvas")
    tab.wait_for_timeout(800)
    fonts = tab.evaluate(FONTS)
    content = tab.screenshot(
        full_page=True, mask=[tab.locator(".screen"), tab.locator(".eyebrow")], mask_color="#888888"
    )
    context.close()
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    return whole.resize((round(whole.width * SCALE), round(whole.height * SCALE)), Image.Resampling.BOX), fonts


def differences(one: Image.Image, other: Image.Image) -> tuple[float, float, float]:
    """Returns how far two screenshots differ: in height as a share, in levels on average, in squares as a share."""
    height, width = min(one.height, other.height) // SQUARE * SQUARE, one.width // SQUARE * SQUARE
    gap = np.abs(*(np.diff([np.asarray(picture, np.float64)[:height, :width] for picture in (one, other)], axis=0),))[0]
    squares = gap.mean(axis=2).reshape(height // SQUARE, SQUARE, width // SQUARE, SQUARE).mean(axis=(1, 3))
    return abs(one.height / other.height - 1), float(gap.mean()), float((squares > SQUARE_LEVELS).mean())


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["report", "view"])
def test_a_page_looks_as_it_did(browser: Any, addresses: dict[str, str], name: str, look: str, tmp_path: Path) -> None:
    picture, fonts = screenshot(browser, addresses[name], LOOKS[look])
    file = FOLDER / f"{name}-{look}.png"
    if os.environ.get("RENEW_GOLDEN"):
        known = PngInfo()
        known.add_text("fonts", fonts)
        picture.quantize(COLOURS).save(file, optimize=True, pnginfo=known)
    with Image.open(file) as golden:
        if golden.info["fonts"] != fonts:
            pytest.skip(f"other fonts: a line is {fonts} pixels wide, {golden.info['fonts']} in the golden screenshot")
        height, mean, squares = differences(picture, golden.convert("RGB"))
    picture.save(tmp_path / file.name)
    where = f"the new picture: {tmp_path / file.name}"
    assert height <= HEIGHT_SHARE, where
    assert mean <= MEAN_LEVELS, where
    assert squares <= SQUARE_SHARE, where
    assert file.stat().st_size < MOST_BYTES


def test_another_page_would_be_noticed() -> None:
    light, dark, view = (
        Image.open(FOLDER / f"{name}.png").convert("RGB") for name in ("report-light", "report-dark", "view-light")
    )
    assert differences(light, dark)[1] > MEAN_LEVELS
    assert differences(light, view)[2] > SQUARE_SHARE
    moved = Image.new("RGB", light.size, light.getpixel((0, 0)))
    moved.paste(light, (0, 12))  # 30 pixels of the page
    assert differences(light, moved)[1] > MEAN_LEVELS
