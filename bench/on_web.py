"""Figures of ``agentpipe web``: pages of a large run, a long trace in Chromium, the live view."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from agentpipe import Settings
from agentpipe.sinks import open_sink
from bench import on_archive, on_exports
from bench.figures import show
from bench.fleet import AGENTPIPE, cpu_shares, fleet
from bench.recording import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse

    from agentpipe.core.result import Result
    from bench.fleet import Fleet

SAMPLES, SPANS, AGENTS, ASKED = 100_000, 500, 1_000, 15
RUN = "v2"
READ_S, LOOKED_S = 60.0, 30.0
# The first look connects; the first page compiles its templates.
WARM_LOOKS = 2
PAGES = {
    "newest first": "",
    "by cost": "&sort=dearest",
    "a search": "&q=times+777",
    "a search that all match, by duration": "&q=times&sort=longest",
    "the last page, by reward": f"&sort=reward&page={SAMPLES // 100 - 1}",
}
PAINTED = "performance.getEntriesByType('paint').map(it => it.startTime)"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def measure() -> None:
    attempt(f"a page of {SAMPLES:,} samples", lists)
    attempt(f"a trace of {SPANS} spans", trace)
    attempt("the live view", live)


def lists() -> None:
    with fleet(1, "Instant") as scratch:
        fill(scratch)
        with serving(scratch) as (port, headers, _):
            path = f"/run?name={RUN}"
            until = time.monotonic() + READ_S
            while f"{SAMPLES:,} samples" not in fetched(port, path, headers):
                if time.monotonic() > until:
                    raise TimeoutError("the run was not read")
            for label, query in PAGES.items():
                took_ms = [asked_ms(port, path + query, headers) for _ in range(ASKED)]
                beside = f"median; {min(took_ms):.0f} to {max(took_ms):.0f} ms; bar 200 ms"
                value = f"{statistics.median(took_ms):.0f} ms"
                show(f"a page of {SAMPLES:,} samples, {label}", value, beside)


def fill(scratch: Fleet) -> None:
    with closing(open_sink(_settings(scratch))) as sink:
        for start in range(0, SAMPLES, on_archive.BATCH):
            numbers = range(start, start + on_archive.BATCH)
            sink.publish([on_archive.encoded(_sample(number)) for number in numbers])


def _sample(number: int) -> Result:
    asked = {"question": f"What is 6 times {number}?"}
    made = on_archive.result_of(RUN, number, "")
    return replace(made, task_id=f"{RUN}/{number:06}", task=asked)


def trace() -> None:
    """Time from the navigation to the first paint, as the browser measures it."""
    from playwright.sync_api import sync_playwright

    with fleet(1, "Instant") as scratch:
        spans = [
            on_exports.span(number, data)
            for number, data in zip(range(SPANS), _turns(), strict=False)
        ]
        result = replace(on_exports.result(0, 0), trace=spans)
        with closing(open_sink(_settings(scratch))) as sink:
            sink.publish([on_archive.encoded(result)])
        with serving(scratch) as (port, headers, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(extra_http_headers=dict(headers))
            took_ms = []
            for _ in range(ASKED):
                page.goto(f"http://127.0.0.1:{port}/task?id={result.task_id}")
                while not (painted := page.evaluate(PAINTED)):  # Its policy lets no script wait.
                    pass
                took_ms.append(painted[0])
            browser.close()
    beside = f"median; {min(took_ms):.0f} to {max(took_ms):.0f} ms; bar 500 ms"
    show(f"a trace of {SPANS} spans to first paint", f"{statistics.median(took_ms):.0f} ms", beside)


def _turns() -> Iterator[dict[str, object]]:
    while True:
        yield from on_exports.turns(0)


def live() -> None:
    """Processor time of the pages with a viewer, beside that of a worker of 1,000 agents."""
    with fleet(AGENTS, "Waiting") as scratch:
        scratch.send([{"question": "q"}] * 40 * AGENTS)
        with (
            scratch.working("--processes", "1", "--slots", str(AGENTS)) as worker,
            serving(scratch) as (port, headers, pages),
            closing(HTTPConnection("127.0.0.1", port)) as connection,
        ):
            connection.request("GET", "/events", headers=headers)
            answer = connection.getresponse()
            for _ in range(WARM_LOOKS):
                _read_event(answer)
            threading.Thread(target=_view, args=(answer,), daemon=True).start()
            mine, fleets = cpu_shares([pages, worker], LOOKED_S)
    beside = f"of one core; {mine / fleets:.2%} of a worker of {AGENTS:,} agents that wait 1 s"
    show("the live view, with a viewer", f"{mine:.2%}", beside)


def _read_event(answer: HTTPResponse) -> None:
    while answer.readline().strip():
        pass


def _view(answer: HTTPResponse) -> None:
    with suppress(OSError, HTTPException, ValueError, AttributeError):  # It is closed meanwhile.
        while answer.readline():
            pass


@contextmanager
def serving(scratch: Fleet) -> Iterator[tuple[int, dict[str, str], int]]:
    """Serve the pages; yield the port, headers that grant access, and the process id."""
    command = [*AGENTPIPE, "web", "--port", "0", "--json"]
    process = subprocess.Popen(
        command, env=scratch.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        address = urlsplit(json.loads(process.stdout.readline())["url"])
        token = parse_qs(address.query)["token"][0]
        assert address.port is not None
        yield address.port, {"Authorization": f"Bearer {token}"}, process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def fetched(port: int, path: str, headers: dict[str, str]) -> str:
    with closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read().decode()


def asked_ms(port: int, path: str, headers: dict[str, str]) -> float:
    began = time.perf_counter()
    fetched(port, path, headers)
    return (time.perf_counter() - began) * 1000


def _settings(scratch: Fleet) -> Settings:
    return Settings(sink=scratch.environ["AGENTPIPE_SINK"])


if __name__ == "__main__":
    measure()
