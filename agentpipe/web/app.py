"""The application: its routes and handlers."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from agentpipe import __version__
from agentpipe.brokers import open_watched
from agentpipe.brokers.capabilities import LocatesTasks, require
from agentpipe.core.redaction import without_password
from agentpipe.core.text import one_line
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.operations.explain import explain
from agentpipe.show.tones import tone_of
from agentpipe.sinks import is_searchable
from agentpipe.web import run_list, task
from agentpipe.web.access import Guard
from agentpipe.web.comparison import Comparisons
from agentpipe.web.fleet import Fleet
from agentpipe.web.pages import Pages, url
from agentpipe.web.results import RunResults
from agentpipe.web.samples import REWARDS, SORTS, Wanted, find, page_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from agentpipe.settings import Settings
    from agentpipe.web.access import WebAccess
    from agentpipe.web.results import RunView

HERE = Path(__file__).parent
NO_ARCHIVE = (
    "This sink is a server and cannot be searched: collect its results into a file with "
    "agentpipe collect --to results.db, and name that with --sink sqlite:///results.db."
)
ONE_RUN = "A comparison needs two runs: open one of them, and choose the other on its page."
# While results are being read, the browser reloads the page.
AGAIN = {"refresh": "1"}
_EVENTS = {"x-accel-buffering": "no"}


class Site:
    """The pages of one broker and one archive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.pages = Pages(
            {
                "version": __version__,
                "broker": without_password(settings.broker),
                "sink": without_password(settings.sink),
            }
        )
        self.results = RunResults(settings)
        self._comparisons = Comparisons()
        self.fleet = Fleet(lambda: open_watched(settings), settings.outbox_limits, self.pages)

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Watch the fleet while requests are served."""
        self.fleet.start()
        try:
            yield
        finally:
            self.fleet.stop()
            self.results.stop()

    def routes(self) -> list[Route | Mount]:
        """All routes."""
        return [
            Route("/", self.show_fleet),
            Route("/events", self.stream_events),
            Route("/agents", self.show_agents),
            Route("/runs", self.show_runs),
            Route("/run", self.show_run),
            Route("/compare", self.show_comparison),
            Route("/task", self.show_task),
            Route("/raw", self.give_raw),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]

    def show_fleet(self, _request: Request) -> Response:
        """The fleet, as of the last snapshot."""
        return self.pages.response("fleet.html", live=self.fleet.html(), here="fleet")

    async def stream_events(self, _request: Request) -> Response:
        """Stream the fleet after each snapshot, as server-sent events."""
        events = self.fleet.events()
        return StreamingResponse(events, media_type="text/event-stream", headers=_EVENTS)

    def show_agents(self, request: Request) -> Response:
        """All agents of a collection."""
        name = request.query_params.get("collection", "")
        agents = self.fleet.agents(name)
        if not agents:
            return self.pages.message(404, f"There is no collection {one_line(name, 80)} here.")
        return self.pages.response("agents.html", collection=name, agents=agents, here="fleet")

    def show_runs(self, _request: Request) -> Response:
        """All runs."""
        found: list[run_list.Entry] = []
        problem, reading = "", False
        try:
            found, reading = self._run_list()
        except AgentpipeError as error:
            problem = str(error)
        response = self.pages.response(
            "runs.html", runs=found, problem=problem, reading=reading, here="runs"
        )
        response.headers.update(AGAIN if reading else {})
        return response

    def _run_list(self) -> tuple[list[run_list.Entry], bool]:
        results = self.results if is_searchable(self._settings) else None
        return run_list.entries(lambda: closing(open_watched(self._settings)), results)

    def show_run(self, request: Request) -> Response:
        """One run: its figures, and the samples that the query selects."""
        if not is_searchable(self._settings):
            return self.pages.message(503, NO_ARCHIVE)
        view = self.results.view(request.query_params.get("name", ""))
        if view.complete and not view.samples:
            return self._absent_run(view)
        wanted = Wanted.of(request.query_params)
        response = self.pages.response(
            "run.html",
            view=view,
            report=view.report,
            charts=view.charts if view.complete else (),
            found=find(view, wanted),
            wanted=wanted,
            link=lambda **changes: url("/run", name=view.run, **wanted.parameters(**changes)),
            sorts=tuple(SORTS),
            others=[name for name in self.results.runs() if name != view.run] if view.run else [],
            rewards=REWARDS,
            here="runs",
        )
        response.headers.update({} if view.complete else AGAIN)
        return response

    def show_comparison(self, request: Request) -> Response:
        """Two runs, task by task."""
        if not is_searchable(self._settings):
            return self.pages.message(503, NO_ARCHIVE)
        names = {side: request.query_params.get(side, "") for side in ("a", "b")}
        if not all(names.values()):
            return self.pages.message(200, ONE_RUN, "Which runs?")
        a, b = (self.results.view(name) for name in names.values())
        for view in (a, b):
            if view.complete and not view.samples:
                return self._absent_run(view)
        ready = a.complete and b.complete
        page = page_of(request.query_params.get("page", ""))
        response = self.pages.response(
            "compare.html",
            a=a,
            b=b,
            found=self._comparisons.page(a, b, page) if ready else None,
            link=lambda **changes: url("/compare", **names, **changes),
            here="runs",
        )
        response.headers.update({} if ready else AGAIN)
        return response

    def _absent_run(self, view: RunView) -> Response:
        if view.problem:
            return self.pages.message(503, f"The results cannot be read: {view.problem}.")
        if not view.run:
            return self.pages.message(200, "Each result here is of a run.", "Results of no run")
        name = one_line(view.run, 80)
        return self.pages.message(404, f"There are no results of run {name} here yet.")

    def show_task(self, request: Request) -> Response:
        """One result with its trace, or its conversation."""
        task_id = request.query_params.get("id", "").strip()
        if not is_searchable(self._settings):
            return self.pages.message(503, NO_ARCHIVE)
        try:
            result = self.results.result(task_id)
        except ConfigError:
            result = None
        if result is None:
            return self.pages.message(404, self._where(task_id))
        values = task.values_of(result) | {"tone": tone_of(result.outcome), "here": "runs"}
        if request.query_params.get("view") == "conversation":
            return self.pages.response(
                "conversation.html", **values, messages=task.conversation(result)
            )
        steps, whole_s, left_out = task.steps(result)
        return self.pages.response(
            "task.html", **values, steps=steps, whole_s=whole_s, left_out=left_out
        )

    def _where(self, task_id: str) -> str:
        """Where the broker has a task without a result."""
        name = one_line(task_id, 200)
        try:
            with closing(open_watched(self._settings)) as store:
                facts = require(store, LocatesTasks, "locate tasks").locate(task_id)
        except AgentpipeError:
            return f"There is no result of {name} here."
        found = explain(facts, time.time(), self._settings.outbox_limits, None)
        if found.state == "unknown":
            return f"There is no result of {name} here, and the broker does not know it."
        return f"{name} has no result here: {found.sentence}."

    def give_raw(self, request: Request) -> Response:
        """A part of a result as plain text, which no browser renders as a page."""
        if not is_searchable(self._settings):
            return self.pages.message(503, NO_ARCHIVE)
        result = self.results.result(request.query_params.get("id", ""))
        part = request.query_params.get("part", "")
        text = None if result is None else task.raw(result, part)
        if text is None:
            return self.pages.message(404, "There is no such text here.")
        return PlainTextResponse(text.encode(errors="backslashreplace"), headers=_RAW)

    def on_error(self, _request: Request, error: Exception) -> Response:
        """The page for an error."""
        if isinstance(error, HTTPException):
            return self.pages.message(error.status_code, "There is no page at this address.")
        if isinstance(error, AgentpipeError):
            return self.pages.message(503, f"{error}.")
        return self.pages.message(500, "This page cannot be made: the server's log says why.")


_RAW = {"content-security-policy": "default-src 'none'; sandbox"}


def application(settings: Settings, access: WebAccess) -> ASGIApp:
    """All pages, behind the guard."""
    site = Site(settings)
    handlers: Any = dict.fromkeys((HTTPException, AgentpipeError, Exception), site.on_error)
    app = Starlette(routes=site.routes(), lifespan=site.lifespan, exception_handlers=handlers)
    return Guard(
        app,
        access,
        site.pages.message,
        lambda path: site.pages.response("enter.html", path=path),
    )
