"""``agentpipe web`` in headless Chromium, and with requests as other sites make them."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from agentpipe.cli.exit_codes import OK
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from tests.chromium import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.integration.project import Project

# For a page under load.
PATIENCE_MS = 60_000
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>\u202ebidi"
)
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
SPANS, LINE = 500, "x" * 1_000_000
WCAG_AA = 4.5
# The contrast of each visible element's text with its background.
LOW_CONTRAST = """
least => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(it => it / 255)
    .map(it => it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
    .reduce((sum, it, at) => sum + it * [0.2126, 0.7152, 0.0722][at], 0);
  const over = (front, back) => {
    const alpha = front.length > 3 ? front[3] : 1;
    return [0, 1, 2].map(at => front[at] * alpha + back[at] * (1 - alpha));
  };
  const behind = element => {
    if (!element) return [255, 255, 255];
    return over(parts(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  const owns = element => [...element.childNodes]
    .some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    if (!owns(element) || !element.checkVisibility()) continue;
    const back = behind(element), style = getComputedStyle(element);
    const ink = over(parts(element.closest("svg") ? style.fill : style.color), back);
    const [low, high] = [light(ink), light(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) found.push(`${element.tagName}.${element.className}: ${ratio}`);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@contextmanager
def serving(project: Project) -> Iterator[str]:
    """The address of the pages, with the token."""
    process = project.start("web", "--port", "0", "--json")
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        assert process.wait(60) == OK


@contextmanager
def viewer(browser: Browser, url: str, width: int = 1280, theme: str = "light") -> Iterator[Page]:
    """A page in a browser with the cookie; fails if a script on it failed or ran."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if theme == "dark" else "light",
    )
    page, said = context.new_page(), list[str]()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(url)
    page.wait_for_url(re.compile(r"^[^?]*$"))  # The token is removed from the address.
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


def test_from_the_fleet_to_a_trace(project: Project, browser: Browser) -> None:
    _done(project)
    with serving(project) as url:
        # Each width and each theme; the long tests look at each pair.
        for width, theme in zip(WIDTHS, THEMES, strict=True):
            with viewer(browser, url, width, theme) as page:
                _go_to_a_trace(page)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, theme


def _go_to_a_trace(page: Page) -> None:
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


def test_the_fleet_is_live(project: Project, browser: Browser) -> None:
    project.collection(number=2)
    fleet = project.work("--processes", "1").ready(1)
    with serving(project) as url, viewer(browser, url) as page:
        expect(page.locator("#live")).to_contain_text("delivered")
        project.send("echo one", "echo two", "echo three")
        delivered = page.locator(".flow li", has_text="delivered").locator(".figure")
        expect(delivered).to_have_text("3")
    assert fleet.stop() == 0


@pytest.mark.long
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


def _publish(project: Project, *results: Result) -> None:
    with closing(open_sink(Settings.from_env(project.environ))) as sink:
        sink.publish([Record(each.task_id, each.encode(Redactor(()))) for each in results])


def _result(run: str, reward: float, **fields: Any) -> Result:
    """A Result with hostile text in every field of an agent or a task."""
    error = {"type": "Boom", "message": f"{HOSTILE} {LINE}"}
    return Result(
        task_id=f"{run}/0",
        run=run,
        collection="toys",
        agent="toys_0",
        task={"question": f"{HOSTILE} {LINE}"},
        result=f"{HOSTILE} {LINE}",
        reward=reward,
        reward_trustworthy=True,
        started_at="2026-01-01T00:00:00.000000Z",
        finished_at="2026-01-01T00:00:09.000000Z",
        error=error if not reward else None,
        outcome="ok" if reward else "agent_error",
        **fields,
    )


def _span(number: int) -> dict[str, Any]:
    text = LINE if number == 1 else f"{HOSTILE} {number}"
    data = {"type": "tool", "tool_name": f"t{number}", "arguments": {"a": text}, "response": text}
    return {
        "id": f"s{number}",
        "trace_id": "t",
        "parent_id": "root",
        "records": [{"timestamp": 1_767_225_600.0 + number, "data": data}],
        "running_time": 0.5,
        "timestamp": 1_767_225_600.0 + number,
        "span_index": number,
    }


@pytest.mark.long
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_long_and_hostile_results_stay_text_that_can_be_read(
    project: Project, browser: Browser, width: int, theme: str
) -> None:
    project.collection()
    trace = [_span(number) for number in range(SPANS)]
    _publish(project, _result("one", 1.0, trace=trace), _result("two", 0.0))
    file = project.folder / "report.html"
    project.ok("report", "--run", "two", "--html", str(file))
    with serving(project) as url, viewer(browser, url, width, theme) as page:
        base = url.partition("?")[0].rstrip("/")
        page.goto(f"{base}/task?id=one/0")
        expect(page.locator("details.step")).to_have_count(SPANS)
        _is_harmless(page, width)
        page.wait_for_load_state("load")
        page.keyboard.press("j")
        expect(page.locator("details.step summary").first).to_be_focused()
        for path in ("/task?id=two/0", "/run?name=two", "/compare?a=one&b=two"):
            page.goto(base + path)
            expect(page.locator("main")).to_contain_text("<script>document.title")
            _is_harmless(page, width)
        page.goto(file.as_uri())
        expect(page.locator("body")).to_contain_text("<script>document.title")
        _is_harmless(page, width)


def _is_harmless(page: Page, width: int) -> None:
    """Check that nothing ran, no bidi mark is left, the page fits, and all text is readable."""
    assert page.title() != "owned"
    assert page.locator("main script, main img[src='x']").count() == 0
    assert "\u202e" not in page.content()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(LOW_CONTRAST, WCAG_AA) == []
