"""The report in a real browser: from disk, as wide as a laptop and a phone, light, dark and printed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from .conftest import HOSTILE

Write = Callable[[Path], Path]
WAY = "chromium is not installed: ./invokew test does it as root on Debian (apt-get install chromium)"
# What is not background in a canvas: how many pixels have a colour at all.
INK = """canvas => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let seen = 0; for (let i = 3; i < data.length; i += 4) seen += data[i] > 0; return seen; }"""


@dataclass
class Opened:
    """A page in the browser, and all that it complained of or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program is not None, WAY
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    pages: list[Page] = []

    def open_(file: Path, *, width: int = 1200, dark: bool = False) -> Opened:
        scheme = "dark" if dark else "light"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        opened = Opened(page)
        page.on("console", lambda message: opened.complaints.append(message.text))
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.goto(file.as_uri())
        return opened

    yield open_
    for page in pages:
        page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_it_opens_from_disk_and_its_plots_are_there(
    plain_run: Path, write_page: Write, open_page: Callable[..., Opened], width: int, dark: bool
) -> None:
    opened = open_page(write_page(plain_run), width=width, dark=dark)
    page = opened.page
    assert opened.complaints == []
    assert [url.split(":")[0] for url in opened.requests] == ["file"]
    plots = page.locator("figure[data-chart]").count()
    assert page.locator("figure[data-chart=forecasts]").count() == 3
    assert page.locator("figure[data-chart=ranking]").count() == 1
    assert page.locator("figure[data-chart=machine]").count() == 2
    inks = page.locator("canvas").evaluate_all(f"found => found.map({INK})")
    assert len(inks) == plots >= 8
    assert min(inks) > 1000
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    hidden = "found => found.map(one => one.scrollWidth - one.clientWidth)"
    assert page.locator(".scroll").evaluate_all(hidden) == [0], "the whole table is seen"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is not dark
    assert "succeeded" in page.locator("h1").inner_text()


def test_the_plots_follow_the_window_the_scheme_and_the_printer(
    plain_run: Path, write_page: Write, open_page: Callable[..., Opened]
) -> None:
    opened = open_page(write_page(plain_run), width=1200, dark=True)
    page, picture = opened.page, "document.querySelector('canvas').toDataURL()"
    dark = page.evaluate(picture)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"before => {picture} !== before", arg=dark)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.querySelector('canvas').clientWidth < 390")
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf()) > 20000
    assert opened.complaints == []


def test_the_cursor_tells_the_values(
    plain_run: Path, write_page: Write, open_page: Callable[..., Opened]
) -> None:
    page = open_page(write_page(plain_run)).page
    over = page.locator("figure[data-chart=forecasts] .u-over").first
    over.hover(position={"x": over.evaluate("it => it.clientWidth") - 5, "y": 50})
    legend = page.locator("figure[data-chart=forecasts] .u-legend").first.inner_text()
    for name in ("90%", "10%", "forecast (median)", "actual", "seasonal naive", "2025-01-12"):
        assert name in legend


def test_what_comes_from_outside_stays_text(
    hostile_run: Path, write_page: Write, open_page: Callable[..., Opened]
) -> None:
    opened = open_page(write_page(hostile_run))
    page = opened.page
    assert opened.complaints == []
    assert "owned" not in page.title().replace(HOSTILE, "")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert page.locator("td.name", has_text=HOSTILE).count() >= 2
    assert page.locator(".trouble pre").inner_text() == HOSTILE
    assert page.locator("figure[data-chart=forecasts] figcaption", has_text=HOSTILE).count() >= 1
    assert page.locator(".u-legend", has_text=HOSTILE).count() == 1


def test_the_pages_policy_stops_a_script_that_is_not_its_own(
    plain_run: Path, write_page: Write, open_page: Callable[..., Opened]
) -> None:
    """The second lock: if a text did get into the page as HTML, the browser would still not run it."""
    file = write_page(plain_run)
    file.write_text(file.read_text().replace("<main>", "<main><script>document.title = 'owned'</script>"))
    opened = open_page(file)
    assert opened.page.title() != "owned"
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
