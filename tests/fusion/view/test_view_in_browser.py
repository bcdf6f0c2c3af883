"""The page of `sage-va view` in a browser: video and traces on one clock, keys, labels, names as text."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sage_va.data.labels import read_label_file
from sage_va.extract import shown_recordings
from sage_va.extract.face_places import FacePlaces
from sage_va.fusion.view.viewing import Viewing
from sage_va.tests.fusion_view import CLIPS, EVIL, HZ, LATE_S, SECONDS, Served
from sage_va.tests.waiting import MOST_S

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FRAME_S = 1 / HZ
ROUNDED_S = 0.006  # the playhead is read with two digits
NOW = """(() => {
  const video = document.querySelector("video");
  const pen = new OffscreenCanvas(8, 8).getContext("2d");
  if (video) pen.drawImage(video, 0, 0, 8, 8);
  return {
    playhead: parseFloat(document.querySelector(".playhead").dataset.time), level: pen.getImageData(4, 4, 1, 1).data[0],
    time: video?.currentTime, paused: video?.paused, ready: video?.readyState, rate: video?.playbackRate,
    seeking: video?.seeking,
  };
})()"""
RECORD = """(() => {
  window.pairs = [];
  const video = document.querySelector("video");
  const note = (_, { mediaTime }) => {
    window.pairs.push([mediaTime, parseFloat(document.querySelector(".playhead").dataset.time)]);
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
})()"""

CROP_LEVEL = """(() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d");
  pen.drawImage(document.querySelector(".face canvas"), -100, -100);
  return pen.getImageData(0, 0, 1, 1).data[0];
})()"""


class Tab:
    """A tab with the page, and its trouble so far; `state` reads video and playhead at one instant."""

    def __init__(self, page: Any, trouble: list[str]) -> None:
        self.page, self.trouble = page, trouble

    def state(self) -> SimpleNamespace:
        return SimpleNamespace(**self.page.evaluate(NOW))

    def until(self, condition: Callable[[SimpleNamespace], object]) -> SimpleNamespace:
        """Waits for a condition; scripts in text are against the page's policy, so the page cannot wait by itself."""
        end = time.monotonic() + MOST_S  # a busy machine reads crops behind conversions
        while not condition(state := self.state()):
            assert time.monotonic() < end, state
            self.page.wait_for_timeout(30)
        return state

    def open(self, name: str) -> None:
        self.page.locator(".pick").get_by_text(name, exact=True).click()
        self.page.locator(f".stack[data-clip='{list(CLIPS).index(name)}']").wait_for()
        assert self.page.locator(".viewer-head h3").evaluate("node => node.firstChild.textContent") == name

    def ready(self) -> SimpleNamespace:
        return self.until(lambda state: state.ready == 4 and not state.seeking)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def box_of(self, name: str) -> dict[str, float]:
        """Returns where the plot of a lane is, in the middle of the window."""
        area = self.page.get_by_role("img", name=name).locator(".u-over")
        area.evaluate("node => node.scrollIntoView({ block: 'center' })")
        return area.bounding_box()

    def settled(self) -> SimpleNamespace:
        self.page.wait_for_timeout(60)
        return self.until(lambda state: not state.seeking)


@pytest.fixture
def opened(browser: Any, served: Served) -> Iterator[Callable[..., Tab]]:
    """Opens the page; at the end there must have been no error, no message and no request to another place."""
    contexts = []
    trouble: list[str] = []

    def open_page(**options: Any) -> Tab:
        contexts.append(context := browser.new_context(**options))
        context.set_default_timeout(1000 * MOST_S)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: note(request.url))
        page.on("response", lambda answer: trouble.append(answer.url) if answer.status >= 400 else None)
        page.goto(served.url)
        page.wait_for_selector("#viewer .uplot canvas")
        return Tab(page, trouble)

    def note(url: str) -> None:
        if not url.startswith((served.url, "data:", f"blob:{served.url[:20]}")):
            trouble.append(url)

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def level_at(number: int) -> int:
    return (8 + 5 * number) % 256


def shows_frame_at(state: SimpleNamespace, time_s: float) -> bool:
    """True if the picture on the screen is that of an instant, or the one before or after."""
    number = int(time_s / FRAME_S + 1e-6)
    return any(abs(state.level - level_at(near)) <= 3 for near in (number - 1, number, number + 1))


def test_the_playhead_follows_the_pictures(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    tab.page.evaluate(RECORD)
    tab.press(" ")
    tab.until(lambda state: state.time > 1.2 and tab.page.evaluate("window.pairs.length") > 10)
    tab.press(" ")
    assert tab.until(lambda state: state.paused)
    pairs = tab.page.evaluate("window.pairs")
    assert max(abs(shown - playhead) for shown, playhead in pairs) <= FRAME_S + ROUNDED_S
    state = tab.settled()
    assert abs(state.time - state.playhead) <= FRAME_S + ROUNDED_S
    assert shows_frame_at(state, state.playhead)


def test_scrubbing_the_traces_moves_the_video(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    slider = tab.page.get_by_role("slider", name="Playhead")
    for step in (50, 75, 20):
        slider.fill(str(step))
        state = tab.settled()
        assert abs(state.playhead - (step + 0.5) / HZ) <= ROUNDED_S
        assert abs(state.time - state.playhead) <= FRAME_S
        assert shows_frame_at(state, state.playhead)
    box = tab.box_of("weight of each stream")
    tab.page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 20)
    state = tab.settled()
    assert abs(state.playhead - 1.0) <= FRAME_S + ROUNDED_S
    assert abs(state.time - state.playhead) <= FRAME_S


def test_scrubbing_the_video_moves_the_playhead(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    for time_s in (2.5, 0.7, 3.3):
        tab.page.locator("video").evaluate("(video, time) => { video.currentTime = time; }", time_s)
        state = tab.settled()
        assert abs(state.playhead - time_s) <= FRAME_S + ROUNDED_S
        assert abs(state.time - time_s) <= FRAME_S


def test_a_copy_keeps_the_clock_of_the_recording(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.open("late")
    tab.ready()
    slider = tab.page.get_by_role("slider", name="Playhead")
    slider.fill("40")
    state = tab.settled()
    assert abs(state.playhead - (LATE_S + 40.5 / HZ)) <= ROUNDED_S
    assert abs(state.time + LATE_S - state.playhead) <= FRAME_S
    assert shows_frame_at(state, state.playhead - LATE_S)


def test_what_the_browser_cannot_play_is_converted(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.open("old")
    tab.ready()
    tab.page.get_by_role("slider", name="Playhead").fill("30")
    state = tab.settled()
    assert shows_frame_at(state, state.playhead)
    tab.open("none")
    tab.page.get_by_text("There is no recording of this clip.").wait_for()


def test_what_the_browser_fails_to_play_is_converted(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    tab.page.route("**/video", lambda route: route.fulfill(status=200, content_type="video/mp4", body="no video"))
    tab.open(EVIL)
    tab.ready()
    assert tab.page.locator("video").get_attribute("src").endswith("/video?converted")


def test_sound_alone_is_followed(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.open("sound")
    tab.page.locator("audio").wait_for()
    tab.press(" ")
    tab.until(lambda state: state.playhead > 0.5)
    tab.press(" ")
    tab.page.wait_for_timeout(100)
    time_s = tab.page.locator("audio").evaluate("node => node.currentTime")
    assert abs(tab.state().playhead - time_s) <= FRAME_S + ROUNDED_S
    tab.page.get_by_role("slider", name="Playhead").fill("10")
    tab.page.wait_for_timeout(200)
    assert abs(tab.page.locator("audio").evaluate("node => node.currentTime") - 10.5 / HZ) <= FRAME_S


def test_keys_play_move_and_jump(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    tab.press("l")
    tab.until(lambda state: not state.paused)
    tab.press("l")
    assert tab.state().rate == 2
    tab.press("k")
    state = tab.until(lambda state: state.paused)
    assert state.rate == 1
    tab.press("ArrowRight")
    assert tab.settled().playhead > state.playhead
    tab.press("Home")
    tab.page.get_by_role("slider", name="Playhead").press("Home")
    tab.press("ArrowRight", "ArrowRight")
    assert abs(tab.settled().playhead - 2.5 * FRAME_S) <= ROUNDED_S
    tab.press("Shift+ArrowRight")
    assert abs(tab.settled().playhead - 1 - 2.5 * FRAME_S) <= ROUNDED_S
    tab.press("Shift+ArrowLeft", "ArrowLeft")
    assert abs(tab.settled().playhead - 1.5 * FRAME_S) <= ROUNDED_S
    tab.press("g")
    state = tab.settled()
    assert abs(state.playhead - 2.02) <= ROUNDED_S  # the gate switches at the fiftieth step
    assert abs(state.time - state.playhead) <= FRAME_S
    tab.press("e")
    assert tab.settled().playhead != state.playhead


def test_j_plays_backwards(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.ready()
    tab.page.get_by_role("slider", name="Playhead").fill("75")
    before = tab.settled()
    tab.press("j")
    tab.until(lambda state: state.playhead < before.playhead - 0.3)
    tab.press("k")
    tab.page.wait_for_timeout(150)
    state = tab.settled()
    assert 0 < state.playhead < before.playhead
    assert abs(state.time - state.playhead) <= FRAME_S + ROUNDED_S


def test_names_stay_text(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.open(EVIL)
    tab.ready()
    assert tab.page.evaluate("window.evil") is None
    assert tab.page.locator("img").count() == 0


def test_labels_are_corrected_beside_the_originals(opened: Callable[..., Tab], served: Served) -> None:
    originals = {file: file.read_bytes() for file in (served.folder / "labels").iterdir()}
    tab = opened()
    tab.ready()
    slider = tab.page.get_by_role("slider", name="Playhead")
    slider.fill("10")
    tab.press("i")
    slider.fill("20")
    tab.press("o")
    assert tab.page.locator("[name=from]").input_value() == "0.42"
    tab.page.locator("[name=valence-first]").fill("-1")
    tab.page.locator("[name=valence-last]").fill("1")
    tab.page.get_by_role("button", name="Set values").click()
    assert "1 change, not saved" in tab.page.locator(".label-status").inner_text()
    assert "(gold −0.00)" in readings_at(tab, 15) or "(gold 0.00)" in readings_at(tab, 15)
    tab.press("s")
    tab.page.locator(".label-status", has_text="Saved to labels-corrected/a.csv").wait_for()
    assert {file: file.read_bytes() for file in (served.folder / "labels").iterdir()} == originals
    before = read_label_file(served.folder / "labels" / "a.csv")
    after = read_label_file(served.folder / "labels-corrected" / "a.csv")
    assert after.times_s is not None
    inside = (after.times_s > 0.41) & (after.times_s < 0.83)
    assert after.va[inside, 0] == pytest.approx(np.linspace(-1, 1, 11), abs=1e-3)
    assert after.va[inside, 1].tobytes() == before.va[inside, 1].tobytes()
    assert after.va[~inside].tobytes() == before.va[~inside].tobytes()
    tab.page.reload()
    tab.page.wait_for_selector("#viewer .uplot canvas")
    assert "0.00)" in readings_at(tab, 15)
    assert tab.page.locator(".before").first.is_visible()


def readings_at(tab: Tab, step: int) -> str:
    tab.page.get_by_role("slider", name="Playhead").fill(str(step))
    return tab.page.locator(".readout").inner_text()


def test_labels_are_drawn_and_added_where_there_are_none(opened: Callable[..., Tab], served: Served) -> None:
    tab = opened()
    tab.open("old")  # it has no label file
    tab.press("d")
    for name in ("valence", "arousal"):
        box = tab.box_of(f"{name} of old")
        tab.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25, steps=5)
        tab.page.mouse.up()
    tab.press("d", "u", "s")
    tab.page.get_by_role("alert").get_by_text("Not saved").wait_for()  # arousal alone was taken back
    assert "these corrections leave no label" in tab.page.locator(".labels").inner_text()
    assert len(tab.trouble) == 2  # the answer 422, and the browser's note of it
    tab.trouble.clear()
    tab.press("d")
    tab.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.25)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25, steps=5)
    tab.page.mouse.up()
    tab.press("s")
    tab.page.locator(".label-status", has_text="Saved to labels-corrected/old.csv").wait_for()
    labels = read_label_file(served.folder / "labels-corrected" / "old.csv")
    assert labels.times_s is not None
    assert (labels.times_s.min(), labels.times_s.max()) == pytest.approx((1.0, 3.0), abs=2 * FRAME_S)
    assert labels.va == pytest.approx(np.full_like(labels.va, 0.5), abs=0.03)


def test_a_touch_of_the_pen_changes_the_step_that_it_shows(opened: Callable[..., Tab], served: Served) -> None:
    tab = opened()
    tab.open("late")
    tab.press("d")
    box = tab.box_of("valence of late")
    place = (60.2 / (HZ * SECONDS), 0.25)  # in step 60, beside its middle
    tab.page.mouse.click(box["x"] + box["width"] * place[0], box["y"] + box["height"] * place[1])
    tab.press("s")
    tab.page.locator(".label-status", has_text="Saved to labels-corrected/late.csv").wait_for()
    before = read_label_file(served.folder / "labels" / "late.csv")
    after = read_label_file(served.folder / "labels-corrected" / "late.csv")
    changed = np.flatnonzero(after.va[:, 0] != before.va[:, 0])
    assert changed.tolist() == [60]
    assert after.va[60, 0] == pytest.approx(0.5, abs=0.03)


def test_what_is_changed_during_saving_stays(
    opened: Callable[..., Tab], viewing: Viewing, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = opened()
    tab.ready()
    may_end = threading.Event()
    save = viewing._save  # a disk that takes its time
    monkeypatch.setattr(viewing, "_save", lambda *words: may_end.wait(MOST_S) and save(*words))
    for name in ("valence", "arousal"):
        tab.page.locator("[name=from]").fill("1")
        tab.page.locator("[name=to]").fill("4000")
        tab.page.locator("[name=valence-first], [name=arousal-first]").evaluate_all(
            "nodes => nodes.map((node) => node.value = '')"
        )
        tab.page.locator(f"[name={name}-first]").fill("0.25")
        tab.page.get_by_role("button", name="Set values").click()
        tab.press("s")
    assert "2 changes, not saved" in tab.page.locator(".label-status").inner_text()
    may_end.set()
    tab.page.locator(".label-status", has_text="1 change, not saved").wait_for()
    tab.press("s")
    tab.page.locator(".label-status", has_text="Saved to labels-corrected/a.csv").wait_for()
    after = read_label_file(viewing.labels.parent / "labels-corrected" / "a.csv")
    assert after.times_s is not None
    assert after.va[after.times_s > 1].tolist() == [[0.25, 0.25]] * 75
    assert after.times_s[-1] < SECONDS  # none behind the end of the clip


def test_the_face_is_cut_out_of_the_picture(
    opened: Callable[..., Tab], viewing: Viewing, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = np.arange(100) / HZ
    matrices = np.tile([2.0, 0, 0, 2.0, -20.0, -20.0], (100, 1))  # twice the size, from (10, 10)
    matrices[50:] = np.nan
    monkeypatch.setattr(shown_recordings, "face_places", lambda *_: FacePlaces(times_s, matrices, 160))
    monkeypatch.setattr(viewing.media, "fingerprints", [{"preprocessing": {"faces": {"mode": "detect"}}}])
    tab = opened()
    tab.ready()
    tab.page.get_by_role("slider", name="Playhead").fill("30")
    state = tab.settled()
    tab.page.locator("figcaption", has_text="face crop").wait_for()
    assert abs(tab.page.evaluate(CROP_LEVEL) - state.level) <= 2
    tab.page.get_by_role("slider", name="Playhead").fill("60")
    tab.page.locator("figcaption", has_text="no face here").wait_for()


def test_ready_made_crops_follow_the_playhead(opened: Callable[..., Tab]) -> None:
    tab = opened()
    tab.open("crops")
    for step in (30, 10):
        tab.page.get_by_role("slider", name="Playhead").fill(str(step))
        tab.until(lambda _, step=step: abs(tab.page.evaluate(CROP_LEVEL) - level_at(step)) <= 2)
    tab.page.get_by_role("slider", name="Playhead").fill("55")
    tab.page.locator("figcaption", has_text="no face here").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_it(opened: Callable[..., Tab], scheme: str, tmp_path: Path) -> None:
    tab = opened(viewport={"width": 375, "height": 700}, color_scheme=scheme)
    tab.ready()
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 375
    texts = tab.page.get_by_role("img").evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))")
    assert all(len(text) > 10 for text in texts)
    unnamed = "nodes => nodes.filter(node => !node.labels?.length && !node.ariaLabel).length"
    assert tab.page.locator("input").evaluate_all(unnamed) == 0
