"""``agentpipe web`` in a headless Chromium, and to requests as other sites make them."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.integration.project import Project

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
# Of a page under load.
PATIENCE_MS = 60_000
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>\u202ebidi"
)
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        assert "CI" not in os.environ, "Chromium is missing"
        pytest.skip("Chromium is missing")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@contextmanager
def serving(project: Project) -> Iterator[str]:
    """The address of its pages, with the token."""
    process = project.start("web", "--port", "0", "--json")
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def viewer(browser: Browser, url: str, width: int = 1280, theme: str = "light") -> Iterator[Page]:
    """A page in a browser that has the cookie, and has said nothing of a script that failed."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if theme == "dark" else "light",
    )
    page, said = context.new_page(), list[str]()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(url)
    page.wait_for_url(re.compile(r"^[^?]*$"))  # The token has left the address.
    yield page
    context.close()
    assert said == []


def _done(project: Project) -> None:
    project.collection(number=2)
    right = [{"func": "raw", "op": "=", "value": "yes", "name": "says yes"}]
    questions = ["echo yes", "echo no", "raise boom", f"echo {HOSTILE}"]
    asked = project.tasks(
        *({"question": each, "evaluators": right} for each in questions), name="asked.jsonl"
    )
    project.ok("send", "toys", "--file", asked, "--run", "first")
    project.burst("--processes", "1")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_from_the_fleet_to_a_trace(
    project: Project, browser: Browser, width: int, theme: str
) -> None:
    _done(project)
    with serving(project) as url, viewer(browser, url, width, theme) as page:
        expect(page.locator("#live")).to_contain_text("toys")
        page.get_by_role("link", name="Runs", exact=True).click()
        page.get_by_role("link", name="first", exact=True).click()
        expect(page.locator("main")).to_contain_text("4 samples")
        page.get_by_role("link", name="first/asked-0", exact=False).first.click()
        expect(page.locator("main")).to_contain_text("echo yes")
        expect(page.locator("main")).to_contain_text("says yes")
        page.wait_for_load_state("load")
        page.keyboard.press("j")
        expect(page.locator("details.step summary").first).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("details.step").first).to_have_attribute("open", "")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width


def test_the_fleet_is_live(project: Project, browser: Browser) -> None:
    project.collection(number=2)
    fleet = project.work("--processes", "1").ready(1)
    with serving(project) as url, viewer(browser, url) as page:
        expect(page.locator("#live")).to_contain_text("delivered")
        project.send("echo one", "echo two", "echo three")
        delivered = page.locator(".flow li", has_text="delivered").locator(".figure")
        expect(delivered).to_have_text("3")
    assert fleet.stop() == 0


def test_what_agents_say_is_text_in_a_browser(project: Project, browser: Browser) -> None:
    _done(project)
    with serving(project) as url, viewer(browser, url) as page:
        base = url.partition("?")[0].rstrip("/")
        for path in ("/run?name=first", "/task?id=first/asked-3", "/runs"):
            page.goto(base + path)
            expect(page).not_to_have_title("owned")
            assert "\u202e" not in page.content()
        page.goto(f"{base}/task?id=first/asked-3")
        expect(page.locator("main")).to_contain_text("<script>document.title")
        assert page.locator("main script, main img").count() == 0


def test_no_page_without_the_token_or_for_another_site(project: Project) -> None:
    project.collection()
    with serving(project) as url:
        place = urlsplit(url)
        good = {"Host": place.netloc, "Authorization": f"Bearer {place.query.partition('=')[2]}"}
        asked = {
            "": (good, 200),
            "no token": ({"Host": place.netloc}, 401),
            "a wrong one": ({**good, "Authorization": "Bearer guess"}, 401),
            "another name": ({**good, "Host": "evil.example"}, 403),
            "another site": ({**good, "Origin": "https://evil.example"}, 403),
        }
        for name, (headers, status) in asked.items():
            assert (name, _status(place.netloc, headers)) == (name, status)
        assert _status(place.netloc, good, "POST") == 405


def _status(netloc: str, headers: dict[str, str], method: str = "GET") -> int:
    connection = http.client.HTTPConnection(netloc, timeout=60)
    connection.request(method, "/runs", headers=headers)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.long
@pytest.mark.parametrize("width", WIDTHS)
def test_two_runs_are_compared_and_a_report_is_a_file(
    project: Project, browser: Browser, width: int
) -> None:
    _done(project)
    right = [{"func": "raw", "op": "=", "value": "no"}]
    again = [{"question": each, "evaluators": right} for each in ("echo yes", "echo no")]
    project.ok("send", "toys", "--file", project.tasks(*again, name="asked.jsonl"), "--run", "two")
    project.burst("--processes", "1")
    file = project.folder / "report.html"
    project.ok("report", "--run", "first", "--html", str(file))
    with serving(project) as url, viewer(browser, url, width) as page:
        page.get_by_role("link", name="Runs", exact=True).click()
        page.get_by_role("link", name="two", exact=True).click()
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("h1")).to_contain_text("two against first")
        expect(page.locator("main")).to_contain_text("2 tasks in both, 2 judged in both")
        expect(page.locator("tbody tr").first).to_contain_text("-1.000")
        page.wait_for_load_state("load")
        page.keyboard.press("j")
        expect(page.locator("tbody tr a").first).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_contain_text("two/asked-")
        page.goto(file.as_uri())
        expect(page.locator("h1")).to_have_text("first")
        assert page.title() != "owned"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
