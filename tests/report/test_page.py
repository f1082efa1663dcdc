# SPDX-License-Identifier: GPL-2.0-or-later
"""The page in a real browser: what it shows, what mouse and keys do; and that it asks nobody, runs nothing foreign."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.scripting import Recording
from tests.report.browser import Browser, Page

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def driver(browser: Browser, recordings: Path) -> Iterator[Page]:
    """The page of the driver's recording. Whatever a test does with it: no complaint, and no request but for itself."""
    path = recordings / "driver.log.html"
    page = browser.open(path)
    yield page
    assert page.complaints == [] and page.requests == [path.as_uri()]


def window(page: Page) -> tuple[float, float]:
    """The stretch of guest time that is shown, in ticks."""
    begin, end = page.value("[Number(chart.dataset.begin), Number(chart.dataset.end)]")
    return begin, end


def listed(page: Page) -> int:
    """Rows in the table, in sight or not."""
    return int(page.value("table.getAttribute('aria-rowcount')"))


def lane(page: Page, name: str) -> float:
    """Where in the window the middle of a lane's marks is."""
    _, top, _, _ = page.box("#lanes")
    number = page.value(f"lanes.findIndex(lane => lane.title === '{name}')")
    return top + 36 * int(number) + 22


# -- what it shows --------------------------------------------------------------------------------------------------


def test_figures_and_facts_are_those_of_the_recording(driver: Page, recordings: Path) -> None:
    with Recording.open(recordings / "driver.log") as recording:
        counts, header = recording.statistics(), recording.header
    assert driver.text("h1") == "driver.log"
    assert f"{counts.entries} epochs replayed, every digest as recorded" in driver.text("#verdict")
    figures = driver.text("#figures")
    assert f"{counts.entries}\nentries" in figures and "41\noutputs" in figures and "40\nevents in" in figures
    facts = driver.text("#facts")
    assert header.engine in facts and header.configuration in facts
    assert all(name in facts and digest in facts for name, digest in header.images.items())
    assert driver.value("document.querySelector('#machine').textContent") == header.machine.decode()


def test_rates_are_those_of_the_window(driver: Page) -> None:
    rows = driver.value("[...document.querySelectorAll('#rates tbody tr')].map(row => row.innerText.split('\\t'))")
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert table["block request"][0] == table["block reply"][0] == "40"
    begin, end = window(driver)
    assert table["block request"][1].replace(",", "") == str(round(40 / (end - begin) * 1e7))
    driver.value("show(end - 100, end)")
    driver.settle()
    rows = driver.value("[...document.querySelectorAll('#rates tbody tr')].map(row => row.innerText.split('\\t'))")
    last = {row[0].strip(): int(row[1]) for row in rows}
    assert 0 < last["block request"] < 40, rows


def test_events_are_rows_with_positions(driver: Page, recordings: Path) -> None:
    with Recording.open(recordings / "driver.log") as recording:
        first = next(recording.inputs())
    assert listed(driver) == 81, "interrupts and disks are left out until they are asked for"
    rows = driver.text("#rows")
    assert f"{first.position}" in rows and first.summary in rows
    assert "blockd: ready, 2048 sectors" in rows
    assert int(driver.value("document.querySelectorAll('.row').length")) < 40, "only rows in sight are in the page"


# -- mouse and keys -------------------------------------------------------------------------------------------------


def test_the_wheel_zooms_around_the_mouse(driver: Page) -> None:
    left, top, width, _ = driver.box("#lanes")
    begin, end = window(driver)
    driver.wheel(left + width * 0.75, top + 40, -240)
    first, last = window(driver)
    assert (last - first) < 0.7 * (end - begin)
    pointed = begin + 0.75 * (end - begin)
    assert (pointed - first) / (last - first) == pytest.approx(0.75, abs=0.01)
    driver.wheel(left + width * 0.75, top + 40, 600)
    driver.wheel(left + width * 0.75, top + 40, 600)
    assert window(driver) == (begin, end), "never further out than all"


def test_dragging_moves_and_the_strip_chooses(driver: Page) -> None:
    begin, end = window(driver)
    left, top, width, height = driver.box("#overview")
    driver.drag(left + width * 0.8, top + height / 2, left + width * 0.9, top + height / 2)
    first, last = window(driver)
    assert first == pytest.approx(begin + 0.8 * (end - begin), rel=0.01)
    assert last == pytest.approx(begin + 0.9 * (end - begin), rel=0.01)
    left, top, width, _ = driver.box("#lanes")
    driver.drag(left + width * 0.5, top + 50, left + width * 0.75, top + 50)
    moved, _ = window(driver)
    assert moved == pytest.approx(first - 0.25 * (last - first), rel=0.01)
    assert listed(driver) < 81


def test_a_click_on_a_mark_selects_its_event(driver: Page, recordings: Path) -> None:
    with Recording.open(recordings / "driver.log") as recording:
        events = list(recording.inputs())
    chosen = events[17]
    driver.value(f"show({chosen.time - 60}, {chosen.time + 60})")
    driver.settle()
    begin, end = window(driver)
    left, _, width, _ = driver.box("#lanes")
    x = left + width * (chosen.time - begin) / (end - begin)
    y = lane(driver, "block request")
    driver.point(x, y)
    assert chosen.summary in driver.text("#hover")
    driver.click(x + 2, y)
    detail = driver.text("#detail")
    assert str(chosen.position) in detail and chosen.summary in detail
    assert f"monitor seek {chosen.position}" in detail
    selected = driver.text(".row[aria-selected='true']")
    assert str(chosen.position) in selected
    driver.click(left + width * 0.5, lane(driver, "busy"))
    assert driver.value("document.querySelector('#detail').hidden")


def test_a_click_on_a_row_selects_it_too(driver: Page) -> None:
    driver.click_on("#rows .row:nth-child(4)")
    assert driver.value("listed.indexOf(view.selected)") == 3 and "monitor seek" in driver.text("#detail")
    driver.key("ArrowDown")
    driver.key("ArrowDown")
    assert driver.value("listed.indexOf(view.selected)") == 5, "the arrows go on from there"


def test_keys_do_what_the_mouse_does(driver: Page) -> None:
    begin, end = window(driver)
    driver.value("chart.focus()")
    driver.key("+")
    first, last = window(driver)
    assert last - first == pytest.approx((end - begin) / 2)
    driver.key("ArrowRight")
    moved, _ = window(driver)
    assert moved == pytest.approx(first + (last - first) / 4)
    driver.key("ArrowLeft")
    driver.key("-")
    assert window(driver) == pytest.approx((begin, end))
    driver.key("+")
    driver.key("Home")
    assert window(driver) == (begin, end)
    driver.key("n")
    one = driver.text("#detail code")
    driver.key("n")
    other = driver.text("#detail code")
    assert one != other
    driver.key("p")
    assert driver.text("#detail code") == one
    driver.key("Escape")
    assert driver.value("document.querySelector('#detail').hidden")


def test_everything_is_reached_by_tab(driver: Page) -> None:
    reached = []
    for _ in range(30):
        driver.key("Tab")
        reached.append(driver.value("document.activeElement.id || document.activeElement.dataset.kind || ''"))
    wanted = {"back", "on", "out", "in", "all", "lanes", "search", "table", "block_request", "interrupt"}
    assert wanted <= set(reached), reached


def test_buttons_chips_and_search_choose_what_is_shown(driver: Page) -> None:
    begin, end = window(driver)
    driver.click_on("#in")
    assert window(driver)[1] - window(driver)[0] == pytest.approx((end - begin) / 2)
    driver.click_on("#all")
    assert window(driver) == (begin, end)
    driver.click_on("[data-kind=block_reply]")
    assert listed(driver) == 41 and "block reply" not in driver.text("#rows")
    assert "-k block_request" in driver.text("#command") and "block_reply" not in driver.text("#command")
    driver.click_on("[data-kind=interrupt]")
    assert listed(driver) == 81
    driver.click_on("[data-kind=interrupt]")
    driver.click_on("#search")
    driver.write("READ ON")
    with_reads = listed(driver)
    assert with_reads == 15 and "write" not in driver.text("#rows")
    driver.write(" nothing like that")
    assert listed(driver) == 0 and "No event" in driver.text("#rows")


def test_the_command_that_it_tells_finds_the_same(driver: Page, recordings: Path) -> None:
    """What the page lists of a window, `ftvm log grep` lists too."""
    import shlex

    from click.testing import CliRunner

    from ftvm.cli import main

    driver.value("show(begin + (end - begin) * 0.8, begin + (end - begin) * 0.9)")
    driver.settle()
    words = shlex.split(driver.text("#command"))
    assert words[:4] == ["ftvm", "log", "grep", "driver.log"]
    found = CliRunner().invoke(main, ["log", "grep", str(recordings / "driver.log"), *words[4:]])
    assert len(found.stdout.splitlines()) == listed(driver) > 5


# -- looks ----------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_are_readable_in_light_and_dark(browser: Browser, recordings: Path, dark: bool) -> None:
    page = browser.open(recordings / "driver.log.html", dark)
    names = [
        "ink",
        "soft",
        "panel",
        "paper",
        "faint",
        "accent",
        "good",
        "good-paper",
        "bad",
        "bad-paper",
        "warn",
        "warn-paper",
        "in",
        "out",
        "cpu",
    ]
    named = {name: page.value(f"colour('--{name}')") for name in names}
    assert (luminance(named["paper"]) < 0.1) == dark
    pairs = ["ink/panel", "ink/paper", "soft/panel", "soft/paper", "soft/faint", "accent/panel"]
    for pair in [*pairs, "good/good-paper", "bad/bad-paper", "warn/warn-paper"]:
        text, _, ground = pair.partition("/")
        assert contrast(named[text], named[ground]) >= 4.5, pair
    for mark in ("in", "out", "cpu"):
        assert contrast(named[mark], named["panel"]) >= 3, mark
    assert page.complaints == []


def test_a_narrow_window_does_not_scroll_sideways(browser: Browser, recordings: Path) -> None:
    page = browser.open(recordings / "echo.log.html")
    page._call("Emulation.setDeviceMetricsOverride", width=480, height=900, deviceScaleFactor=2, mobile=False)
    page.settle()
    assert page.value("document.documentElement.scrollWidth") <= 480
    assert page.complaints == []


# -- hostile guests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["console", "echo"])
def test_nothing_that_a_guest_says_becomes_a_part_of_the_page(browser: Browser, recordings: Path, name: str) -> None:
    """Scripts and pictures in its words are words."""
    path = recordings / f"{name}.log.html"
    page = browser.open(path)
    assert page.value("document.querySelectorAll('img, iframe, object, embed, link, base').length") == 0
    assert page.value("document.querySelectorAll('script').length") == 2
    if name == "console":
        assert "</script><img src=x onerror=alert(1)>" in page.text("#rows"), "as text it is there"
    for number in range(min(listed(page), 14)):
        page.click_on(f"#rows .row:nth-child({number + 1})")
    assert page.complaints == [] and page.requests == [path.as_uri()]


def test_even_what_would_get_into_the_page_may_not_run(browser: Browser, recordings: Path, tmp_path: Path) -> None:
    """The page's own policy: a script, a handler, a style and a picture put into it by force are refused."""
    text = (recordings / "driver.log.html").read_text()
    forced = (
        "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x' onerror='window.ran = 1'>"
        "<style>body { display: none }</style>"
    )
    (tmp_path / "forced.html").write_text(text.replace("<main>", forced + "<main>", 1))
    page = browser.open(tmp_path / "forced.html")
    assert page.value("window.ran === undefined") and page.value("getComputedStyle(document.body).display") == "block"
    assert len([each for each in page.complaints if "Content Security Policy" in each]) >= 3
    assert listed(page) == 81


def test_the_page_names_no_address() -> None:
    """No host, no protocol, no import of anything: it could not ask if it wanted."""
    page = Path(__file__).resolve().parents[2] / "ftvm" / "report" / "page"
    for part in page.iterdir():
        text = part.read_text()
        assert not re.search(r"https?:|//[a-z]+\.|\bimport\b|fetch\(|XMLHttp|innerHTML|insertAdjacent|eval\(", text), (
            part
        )
