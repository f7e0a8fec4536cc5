"""``python -m docs.pictures``: watches a run as ``top`` and a browser do, and draws it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.core.redaction import without_password
from agentpipe.monitoring.fetch import Fetcher
from agentpipe.settings import Settings
from agentpipe.tui.frame import BUCKET_S, SPARK, Display, draw
from agentpipe.tui.keys import press
from agentpipe.tui.selection import screen_rows
from agentpipe.tui.state import ScreenState
from agentpipe.tui.store_actions import StoreActions
from docs.pictures.drawing import anonymous, svg
from docs.pictures.fleet import RUN, environ, finished_run, send, working
from docs.pictures.pages import chromium, photographs, serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.monitoring.history import FleetHistory

IMAGES = Path(__file__).parents[1] / "images"
INTERVAL_S = 1.0
# Until every bar of the throughput is complete.
WATCH_S = (SPARK + 1) * BUCKET_S
START_LIMIT_S = 60.0
WIDTH = 120


def main() -> None:
    """Run the fleet in a temporary folder, and write the images."""
    args = _parsed()
    if chromium() is None:
        sys.exit("the pages are photographed in Chromium: install it, such as Debian's chromium")
    images = args.folder.resolve()
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, drawn in _pictures(Path(folder), args.seconds):
            (images / name).write_bytes(drawn)
            sys.stdout.write(f"{images / name}\n")
        os.chdir(images)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=IMAGES, help="output folder")
    parser.add_argument(
        "--seconds", metavar="S", type=float, default=WATCH_S, help="seconds to watch"
    )
    return parser.parse_args()


def _pictures(folder: Path, watch_s: float) -> Iterator[tuple[str, bytes]]:
    settings = Settings.from_env(environ())
    send(folder)
    with _looking(settings) as look, serving(folder) as url, working(folder):
        _wait(look, 1, watch_s / 2)
        with working(folder):  # A second worker, to show a change.
            _wait(look, 2, watch_s / 2)
            history = anonymous(look.history)
            dead = StoreActions(settings).dead()
            yield from photographs(url, folder, {"fleet": "/"})
    draws = partial(_drawn, history, settings)
    yield "top.svg", draws(ScreenState(), 24)
    yield "agents.svg", draws(_typed(history, ["down", "enter"]), 30)
    yield "dead.svg", draws(ScreenState(mode="dead", dead=tuple(dead), dead_index=1), 14)
    apart = folder / "run"
    task_id = finished_run(apart)
    with serving(apart) as url:
        yield from photographs(
            url, apart, {"run": f"/run?name={RUN}", "task": f"/task?id={task_id}"}
        )


@contextmanager
def _looking(settings: Settings) -> Iterator[Fetcher]:
    fetcher = Fetcher(lambda: open_store(settings), INTERVAL_S, lambda: None)
    fetcher.start()
    yield fetcher
    fetcher.stop()
    if fetcher.fatal_error is not None:
        raise fetcher.fatal_error


def _wait(look: Fetcher, workers: int, seconds: float) -> None:
    """Wait until that many workers run, then for ``seconds``."""
    deadline = time.monotonic() + START_LIMIT_S
    while len(_up(look.history)) < workers:
        if time.monotonic() > deadline:
            sys.exit(f"{workers} workers did not start within {START_LIMIT_S:g} s")
        time.sleep(INTERVAL_S / 10)
    time.sleep(seconds)


def _up(history: FleetHistory) -> list[WorkerSeen]:
    workers = history.now.stats.workers if history.now is not None else ()
    return [worker for worker in workers if worker.slots]  # Commands have none.


def _typed(history: FleetHistory, keys: Iterable[str]) -> ScreenState:
    """The state after these keys."""
    state = ScreenState()
    for key in keys:
        state, _ = press(state, key, screen_rows(history, state))
    return state


def _drawn(history: FleetHistory, settings: Settings, state: ScreenState, height: int) -> bytes:
    assert history.now is not None
    clock = time.strftime("%H:%M:%S")
    display = Display(
        without_password(settings.broker), settings.outbox_limits, history.now.at, clock
    )
    drawn = svg(draw(history, state, display, WIDTH, height), WIDTH, "agentpipe top")
    return drawn.encode()


if __name__ == "__main__":
    main()
