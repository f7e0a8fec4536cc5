"""A web service in front of agents: FastAPI answers as soon as a worker has.

Install it with `pip install fastapi uvicorn`, then start workers and the service::

    export AGENT_COLLECTION_CONFIG_FILE=configs/echo.yaml
    agentpipe work &
    uvicorn --app-dir docs/examples web:app
    curl -s localhost:8000/ask/echo -H 'content-type: application/json' -d '{"question": "hello?"}'

A worker that dies costs no request: its task runs again. What is not done in time goes on, and the
client asks again for the id that it was given.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from agentpipe import (
    ConfigError,
    Dispatcher,
    NoResult,
    QueueFull,
    Settings,
    TaskError,
    Unreachable,
    load,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentpipe import Handle

STATUS: dict[type[Exception], int] = {
    ConfigError: 404,
    TaskError: 422,
    QueueFull: 503,
    NoResult: 503,
    Unreachable: 503,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One dispatcher for the process: it reads the results of all requests."""
    settings = Settings.from_env(os.environ)
    collections = load(settings.collection_file or "configs/echo.yaml")
    with await asyncio.to_thread(Dispatcher.open, collections, settings) as dispatcher:
        app.state.dispatcher = dispatcher
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask/{collection}")
async def ask(request: Request, collection: str, task: dict[str, Any], wait_s: float = 30) -> Any:
    """Send a task, and answer with its result, or with its id once the time is over."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    # The broker's answer takes a moment, in which other requests go on.
    sent = await asyncio.to_thread(dispatcher.send, collection, task)
    return await answer(sent, wait_s)


@app.get("/results/{task_id:path}")
async def result(request: Request, task_id: str, wait_s: float = 1) -> Any:
    """The result of a task that was sent before."""
    dispatcher: Dispatcher = request.app.state.dispatcher
    return await answer(dispatcher.handle(task_id), wait_s)


async def answer(sent: Handle, wait_s: float) -> JSONResponse:
    """Wait without a thread: thousands of requests may."""
    try:
        async with asyncio.timeout(wait_s):
            done = await sent
    except TimeoutError:
        return JSONResponse({"task_id": sent.task_id, "outcome": None}, 202)
    return JSONResponse(
        {"task_id": done.task_id, "outcome": done.outcome, "answer": done.result},
        200 if done.outcome == "ok" else 502,
    )


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Agentpipe's errors as a client of HTTP expects them."""
    return JSONResponse({"error": str(error)}, STATUS[type(error)])


for kind in STATUS:
    app.add_exception_handler(kind, refuse)
