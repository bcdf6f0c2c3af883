"""The page in a browser: no errors, no requests, everything by keyboard, names as text, room enough on a phone."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_va.fusion.report.page import page
from sage_va.tests.browser import start_browser
from sage_va.tests.report_contents import drawn_contents

pytestmark = pytest.mark.browser
EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=1>"


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return drawn_contents()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from start_browser()


@pytest.fixture
def opened(browser: Any, contents: dict[str, Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end there must have been no error, no message and no request."""
    trouble: list[str] = []
    contexts = []

    def open_page(values: dict[str, Any] = contents, **options: Any) -> Any:
        (tmp_path / "page.html").write_text(page(values), encoding="utf-8")
        contexts.append(context := browser.new_context(**options))
        tab = context.new_page()
        tab.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith(("data:", "blob:")) else trouble.append(request.url),
        )
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("#viewer .uplot canvas")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in trouble if line != (tmp_path / "page.html").as_uri()] == []


def names(tab: Any) -> list[str]:
    return tab.locator(".clips tbody tr").evaluate_all("rows => rows.map(row => row.dataset.clip)")


def title(tab: Any) -> str:
    return tab.locator("#viewer h3").evaluate("node => node.firstChild.textContent")


def test_the_table_sorts_and_filters(opened: Callable[..., Any]) -> None:
    tab = opened()
    assert names(tab) == ["clip2", "clip10", "other"]
    head = tab.locator("th", has=tab.get_by_role("button", name="CCC mean"))
    head.get_by_role("button").click()
    assert (names(tab), head.get_attribute("aria-sort")) == (["clip10", "other", "clip2"], "ascending")
    head.get_by_role("button").press("Enter")
    assert (names(tab), head.get_attribute("aria-sort")) == (["other", "clip10", "clip2"], "descending")
    tab.get_by_role("searchbox").fill("CLIP")
    assert names(tab) == ["clip10", "clip2"]
    assert tab.get_by_role("status").inner_text() == "2 of 3 clips"


def test_a_clip_is_chosen_and_the_playhead_moved_by_keyboard(opened: Callable[..., Any]) -> None:
    tab = opened()
    assert title(tab) == "clip10"
    tab.get_by_role("button", name="other").press("Enter")
    assert title(tab) == "other"
    assert tab.locator("tr[aria-current=true]").get_attribute("data-clip") == "other"
    slider = tab.get_by_role("slider", name="Playhead")
    for _ in range(15):
        slider.press("ArrowRight")
    assert tab.locator(".playhead").get_attribute("data-time") == "1.50 s"
    assert "visual masked" in slider.get_attribute("aria-valuetext")
    readout = tab.locator(".readout").inner_text()
    assert "1.50 s" in readout
    assert "masked" in readout
    shift = "document.querySelector('.frame').style.backgroundPosition"
    assert tab.evaluate(shift).startswith("0px")
    slider.press("End")
    assert tab.evaluate(shift).startswith("-56px")
    assert "stage\n3 of 3" in tab.locator(".readout").inner_text()
    slider.press("n")
    assert title(tab) == "clip2"
    tab.keyboard.press("p")
    assert title(tab) == "other"
    tab.get_by_role("button", name="Previous").press("Enter")
    tab.keyboard.press("Enter")
    assert title(tab) == "clip2"
    tab.get_by_role("searchbox").press_sequentially("en")
    assert title(tab) == "clip2"


def test_a_click_moves_the_playhead_and_zoom_keeps_it(opened: Callable[..., Any]) -> None:
    tab = opened()
    tab.locator(".stack").scroll_into_view_if_needed()
    box = tab.locator(".stack").bounding_box()
    gutter, right = 64, 14
    tab.mouse.click(box["x"] + gutter + 0.5 * (box["width"] - gutter - right), box["y"] + 120)
    time_s = float(tab.locator(".playhead").get_attribute("data-time").split()[0])
    assert abs(time_s - 4.95) <= 0.1
    before = tab.locator(".playhead").bounding_box()["x"]
    tab.get_by_role("button", name="Zoom in").click()
    assert abs(tab.locator(".playhead").bounding_box()["x"] - before) < 2
    assert float(tab.locator(".playhead").get_attribute("data-time").split()[0]) == time_s


def test_names_stay_text(opened: Callable[..., Any], contents: dict[str, Any]) -> None:
    evil = json.loads(json.dumps(contents).replace("clip10", json.dumps(EVIL)[1:-1]))
    evil["limits"] = [EVIL]
    evil["standing"]["rows"][1]["title"] = evil["provenance"][0]["cache"] = evil["random_weights"][0] = EVIL
    evil["streams"][0]["label"] = evil["calibration"][0]["label"] = evil["learning"][0]["model"] = EVIL
    tab = opened(evil)
    assert tab.evaluate("window.evil") is None
    assert tab.locator("img").count() == 0
    assert title(tab) == EVIL
    assert tab.locator(".limits li").inner_text() == EVIL


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_it(opened: Callable[..., Any], scheme: str) -> None:
    tab = opened(viewport={"width": 375, "height": 700}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == 375
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 384) == (scheme == "light")
    tab.get_by_role("button", name="Colours").click()
    tab.get_by_role("button", name="Colours").click()
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 384


def test_every_picture_has_a_text_and_every_section_a_name(opened: Callable[..., Any]) -> None:
    tab = opened()
    texts = tab.get_by_role("img").evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))")
    assert len(texts) >= 9
    assert all(len(text) > 10 for text in texts)
    for name in ("Score", "Comparison", "Clips", "Is the reliability calibrated?", "Limits"):
        assert tab.get_by_role("region", name=name, exact=True).count() == 1
    assert tab.get_by_role("slider").count() == 1
    assert tab.locator("button:not([type])").count() == 0


def test_what_results_rest_on_stands_beside_them(opened: Callable[..., Any]) -> None:
    tab = opened()
    notes = tab.get_by_role("note").all_inner_texts()
    assert any("Restricted data" in note for note in notes)
    assert any("random weights" in note and "visual/x" in note for note in notes)
    assert tab.locator(".chip").count() == 7
    assert "Not compared with late" in tab.locator(".verdicts").inner_text()


def test_few_clips_decide_nothing(opened: Callable[..., Any], contents: dict[str, Any]) -> None:
    assert "Beats concat: +0.500" in opened().locator(".verdicts").inner_text()
    few = {**contents, "standing": {**contents["standing"], "too_few": True}}
    tab = opened(few)
    assert "Undecided against concat: +0.500" in tab.locator(".verdicts").inner_text()
    assert "*" not in tab.locator("#comparison").inner_text()


def test_the_first_paint_takes_less_than_a_second(opened: Callable[..., Any], contents: dict[str, Any]) -> None:
    large = copy.deepcopy(contents)
    large["clips"] = [{**contents["clips"][0], "id": f"clip{k}"} for k in range(100)]
    large["traces"] = {clip["id"]: contents["traces"]["clip10"] for clip in large["clips"]}
    tab = opened(large)
    paint = tab.evaluate("performance.getEntriesByType('paint').map(entry => entry.startTime)")
    assert max(paint) < 1000
