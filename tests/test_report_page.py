"""The page of a report: whole without a network, safe whatever names are in it, and usable in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxrep
from fxrep.report import Box, Drawing, Kept, Merged, Report
from tests.blocks import OriginalRepVGGBlock
from tests.helpers import randomize

BLOCKS = 200
VOID = {"meta", "input", "br", "link", "img"}
EVIL = "<script>alert(1)</script>\" onload='x' {{title}} &amp;"


class Deep(nn.Module):
    """As many blocks as a page should stay readable with, and an add that stays."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(*(OriginalRepVGGBlock(4, 4) for _ in range(blocks)))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(self.blocks(x) + x.sigmoid())


@pytest.fixture(scope="module")
def report() -> Report:
    return fxrep.explain(randomize(Deep(BLOCKS)), (torch.randn(1, 3, 16, 16),))


class Page(HTMLParser):
    """What is in a page, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.classes.update((dict(attrs).get("class") or "").split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# ------------------------------------------------------------------------------------------------------------- the text
def test_the_page_holds_everything(report: Report) -> None:
    text = report.to_html()
    page = Page(text)
    assert len(report.merged) == BLOCKS
    assert page.tags["details"] == BLOCKS + 1, "a block for each, and one for the model's own operators"
    assert page.tags["svg"] == 2 * (len(report.merged) + len(report.kept))
    words = " ".join(page.text)
    for name in ("blocks.0", f"blocks.{BLOCKS - 1}", *(kept.reason for kept in report.kept)):
        assert name in words
    assert page.classes["refused"] >= 2
    assert len(text) < 10_000 * BLOCKS


def test_the_page_needs_no_network(report: Report) -> None:
    text = report.to_html()
    page = Page(text)
    names = {name for name, _ in page.attributes}
    assert names.isdisjoint({"src", "href", "action", "data", "onclick", "onload"})
    assert not page.tags.keys() & {"link", "img", "iframe", "object", "base"}
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_names_are_text() -> None:
    boxes = Drawing((Box("value", EVIL, EVIL, EVIL), Box(EVIL, EVIL, EVIL, EVIL)), ((0, 1),))
    evil = Report(
        EVIL,
        [Merged(EVIL, {EVIL: 1}, EVIL, 0.0, drawings=(boxes, boxes))],
        [Kept("add", EVIL, EVIL, EVIL), Kept("norm", f"BatchNorm2d '{EVIL}'", EVIL, EVIL)],
        {EVIL: EVIL},
    )
    text = evil.to_html()
    page, plain = Page(text), Page(Report("Net").to_html())
    assert page.tags["script"] == plain.tags["script"] == 1
    assert "onload" not in {name for name, _ in page.attributes}
    assert text.count("{{title}}") >= 5, "a name that looks like a place in the page is left as it is"


def test_a_notebook_shows_the_page_in_a_frame(report: Report) -> None:
    text = report._repr_html_()
    page = Page(text)
    assert page.tags == {"iframe": 1}
    assert dict(page.attributes)["sandbox"] == "allow-scripts"
    assert dict(page.attributes)["srcdoc"] == report.to_html()
    assert unescape(text).count("<script>") == 1


def test_an_empty_report_and_one_without_shapes() -> None:
    assert "no convolution, norm or sum" in Report("Net").to_html()
    text = fxrep.explain(randomize(OriginalRepVGGBlock(4, 4))).to_html()
    assert "MACs per position" in text
    assert "inputs of any size" in text


def test_importing_fxrep_does_not_load_the_page() -> None:
    code = "import sys, fxrep; print([m for m in sys.modules if m.startswith('fxrep.web') or m == 'fxrep.cli'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_arrows_run_between_boxes(report: Report) -> None:
    """No box lies over another one, none is outside of the picture, and each arrow begins and ends at a box."""
    drawing = report.merged[0].drawings[0]
    text = next(part for part in re.findall(r"<svg.*?</svg>", report.to_html()) if "sum of 3" in part)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', text).groups())  # type: ignore[union-attr]
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', text)
    rects = [tuple(map(float, numbers)) for numbers in found]
    assert len(rects) == len(drawing.boxes)
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in rects)
    for i, (x, y, w, h) in enumerate(rects):
        assert not any(x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h for x2, y2, w2, h2 in rects[:i])
    assert text.count('class="head"') == len(drawing.arrows) + 1


# ---------------------------------------------------------------------------------------------------------- the browser
def browser_path() -> str | None:
    """A Chromium on this machine: FXREP_CHROMIUM, one on the PATH, or None for the one that Playwright installed."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return os.environ.get("FXREP_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        try:
            chromium = running.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"there is no Chromium (FXREP_CHROMIUM names one): {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any, report: Report, tmp_path: Path) -> Iterator[Any]:
    """The page, opened; it must neither ask for anything nor raise an error."""
    (tmp_path / "report.html").write_text(report.to_html(), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    asked: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text))
    tab.goto(f"file://{tmp_path / 'report.html'}")
    yield tab
    assert len(asked) == 1, asked
    assert errors == []
    tab.close()


def test_open_expand_and_search(tab: Any, tmp_path: Path) -> None:
    blocks = tab.locator("details.block")
    assert blocks.count() == BLOCKS + 1
    assert not blocks.nth(5).locator("svg").first.is_visible()
    blocks.nth(5).locator("summary").click()
    assert blocks.nth(5).locator("svg").first.is_visible()
    before, after = (blocks.nth(5).locator(".pair svg").nth(i).bounding_box() for i in (0, 1))
    assert before["x"] + before["width"] < after["x"], "side by side"
    tab.fill("#search", "blocks.17")
    visible = tab.locator("details.block:visible .name").all_inner_texts()
    assert visible == ["blocks.17", *(f"blocks.17{i}" for i in range(10))]
    assert tab.locator("#shown").inner_text() == f"11 of {BLOCKS + 1} blocks"
    tab.fill("#search", "no such thing")
    assert tab.locator("#empty").is_visible()
    tab.fill("#search", "different origin")
    assert tab.locator("details.block:visible").count() == 1
    picture = tmp_path / "page.png"
    tab.screenshot(path=str(picture))
    assert picture.stat().st_size > 10_000


def test_filter_and_expand_all(tab: Any) -> None:
    tab.click("[data-filter=refused]")
    assert tab.locator("details.block:visible").count() == 1
    tab.click("#expand")
    assert tab.locator("details.block[open]").count() == 1
    assert "values of different origin" in tab.locator(".item.refused .reason").first.inner_text()
    tab.click("[data-filter='']")
    tab.click("#expand")
    assert tab.locator("details.block[open]").count() == BLOCKS + 1
    tab.click("#collapse")
    assert tab.locator("details.block[open]").count() == 0


def test_the_keyboard_is_enough(tab: Any) -> None:
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.type("blocks.3")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert tab.locator("details.block[open] .name").all_inner_texts() == ["blocks.30"]
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("document.activeElement.innerText").startswith("blocks.3")
    tab.keyboard.press("/")
    tab.keyboard.press("Escape")
    assert tab.locator("details.block:visible").count() == BLOCKS + 1


def test_light_and_dark_and_narrow(tab: Any) -> None:
    def back() -> tuple[int, ...]:
        color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return tuple(map(int, re.findall(r"\d+", color)))

    assert min(back()) > 200
    tab.emulate_media(color_scheme="dark")
    assert max(back()) < 60
    tab.click("#theme")
    assert min(back()) > 200
    tab.set_viewport_size({"width": 420, "height": 800})
    tab.locator("details.block summary").nth(1).click()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out on a small screen"


def test_it_works_without_scripts(browser: Any, report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(replace(report, merged=report.merged[:3]).to_html(), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"file://{tmp_path / 'report.html'}")
    assert not tab.locator("#search").is_visible()
    tab.locator("details.block summary").nth(1).click()
    assert tab.locator("details.block[open] svg").first.is_visible()
    context.close()
