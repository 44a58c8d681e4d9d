"""The page in a real headless Chromium: no console error, no request beside the page itself, no sideways scrolling."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trial_runs import begun_run, search_json, write_trials

from segnas.report import write_comparison, write_report
from segnas.runs.run import Run

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length"
CLIPPED = """[...document.querySelectorAll('main *')].filter(element => {
  if (element.closest('.scroll') || element.closest('pre') || element.closest('svg')) return false;
  return element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
}).length"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_the_page_in_a_browser(make_run: Callable[[], Run]) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = write_report(make_run())
    requests: list[str] = []
    complaints: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        for width in (400, 1400):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page.on("request", lambda request: requests.append(request.url))
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.goto(path.as_uri())
                assert page.evaluate(OVERFLOW) <= 0
                assert page.evaluate(CLIPPED) == 0
                assert page.evaluate(BROKEN) == 0
                assert page.locator("img").count() == 18
                assert page.locator("svg.trellis circle.chosen").count() == 12
                page.close()
        browser.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_pages_of_searches_by_trials_in_a_browser(make_run: Callable[[], Run], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    run = make_run()
    write_trials(run, search_json(1))
    begun = begun_run(tmp_path / "begun", search_json(2, running=3, objectives=(("mIoU", "maximize"),)))
    write_comparison([run.path, begun.path], tmp_path / "compare.html")
    paths = (write_report(run), write_report(begun), tmp_path / "compare.html")
    complaints: list[str] = []
    requests: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        for path, width in itertools.product(paths, (400, 1400)):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                page.on("request", lambda request: requests.append(request.url))
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.goto(path.as_uri())
                assert page.evaluate(OVERFLOW) <= 0
                assert page.evaluate(CLIPPED) == 0
                assert page.locator("svg path.line").count() >= 3
                page.close()
        browser.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri() for path in paths}
