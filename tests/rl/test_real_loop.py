"""A trainer's loop with a real model: new weights after each step, and kills in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers import open_store
from tests.rl.model_proxy import times_asked
from tests.rl.project_files import LIMIT_S, RlProject
from tests.rl.real_trainer import BATCH, SAMPLES, STALENESS, STEPS, Event, weights_of
from tests.rl.torch_model import logprobs_of, model_of
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe import Result, RolloutGroup
    from tests.rl.model_proxy import ModelProxy
    from tests.rl.vllm_server import VllmServer

ROOT = Path(__file__).parents[2]
TURNS, SLOTS = 2, 6
AGENT = {"type": "python", "config": {"class": "asking:Parity", "turns": TURNS}}
# Both compute in 32 bits, but add in a different order.
MAX_DIFFERENCE = 0.01
# Rows of each version that are also compared with the previous weights.
COMPARED = 3

Row = tuple[dict[str, Any], set[int]]


class Loop:
    """The loop's workers, and its successive trainers."""

    def __init__(self, project: RlProject, server: str) -> None:
        self.project, self._server = project, server
        self._trainer: subprocess.Popen[bytes] | None = None
        self.workers = project.start("work", "--processes", "2", "--slots", str(SLOTS))

    def train(self, stops_at: str = "") -> None:
        """Start a trainer."""
        module = [sys.executable, "-m", "tests.rl.real_trainer"]
        command = [*module, str(self.project.folder), self._server, *stops_at.split()]
        with (self.project.folder / "trainer.log").open("ab") as log:
            self._trainer = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    @property
    def events(self) -> list[Event]:
        path = self.project.folder / "trainer.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Event.read(line) for line in lines]

    def until(self, at: str, step: int) -> None:
        """Wait for an event of the current trainer."""

        def reached() -> bool:
            assert self._trainer is not None
            is_over = self._trainer.poll() is not None
            assert at == "ended" or not is_over, self._log()
            return any((it.at, it.step) == (at, step) for it in self.events)

        wait_until(reached, LIMIT_S, f"the trainer has come to {at} {step}")

    def kill_trainer(self) -> None:
        assert self._trainer is not None
        self._trainer.kill()
        assert self._trainer.wait(60) == -signal.SIGKILL

    def kill_worker(self, proxy: ModelProxy) -> int:
        """Kill a busy worker while answers are awaited; return the number of its runs."""
        with closing(open_store(self.project.settings)) as store:

            def busy() -> list[tuple[int, int]]:
                workers = store.stats().workers
                running = [(it.running, it.pid) for it in workers if it.running]
                return sorted(running) if proxy.seen.under_way > 1 else []

            running, pid = wait_until(busy, LIMIT_S, "a worker waits for answers")[-1]
        os.kill(pid, signal.SIGKILL)
        return running

    def end(self) -> None:
        """Wait for the trainer to finish, then stop the workers."""
        assert self._trainer is not None
        assert self._trainer.wait(LIMIT_S) == 0, self._log()
        self.workers.send_signal(signal.SIGTERM)
        self.workers.wait(120)

    def close(self) -> None:
        for process in (self._trainer, self.workers):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait(60)

    def _log(self) -> str:
        return (self.project.folder / "trainer.log").read_text()[-5_000:]


@pytest.fixture(scope="module")
def loop(
    vllm: VllmServer, proxy: ModelProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop]:
    """A loop after five steps; two trainers and one worker were killed."""
    project = RlProject(tmp_path_factory.mktemp("loop"), proxy.url)
    policy = {
        "name": "main",
        "model": "local:small",
        "endpoints": [f"{proxy.url}/v1"],
        "batch": BATCH,
        "max_staleness": STALENESS,
        "hold_s": LIMIT_S,
    }
    document = {"kind": "policy", "spec": policy}
    record = {"tokens": "require"}
    project.write({"loop": AGENT}, document, policy="main", record=record, concurrency=2 * SLOTS)
    found = Loop(project, vllm.url)
    try:
        found.train("loaded 1")  # The server has unpublished weights.
        found.until("loaded", 1)
        found.kill_trainer()
        found.train("published 3")  # Runs have weights without a checkpoint.
        found.until("used", 2)
        assert found.kill_worker(proxy) > 0
        found.until("published", 3)
        found.kill_trainer()
        found.train()
        found.end()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def results(loop: Loop) -> list[Result]:
    return loop.project.results()


def last_events(events: list[Event], at: str) -> list[Event]:
    """The last event of each step, as steps can be repeated."""
    return list({it.step: it for it in events if it.at == at}.values())


@pytest.fixture(scope="module")
def groups(loop: Loop) -> dict[str, RolloutGroup]:
    return {it.group_id: it for it in loop.project.groups()}


def test_each_group_is_used_once_and_whole(loop: Loop, groups: dict[str, RolloutGroup]) -> None:
    saved = json.loads((loop.project.folder / "checkpoint.json").read_text())
    assert len(saved["used"]) == len(set(saved["used"])) == STEPS * BATCH
    assert saved["used"] == [
        it for event in last_events(loop.events, "used") for it in event.groups
    ]
    for group_id in saved["used"]:
        group = groups[group_id]
        assert (group.status, len(group.goods)) == ("complete", SAMPLES)
        assert [it.sample_index for it in group.results] == list(range(SAMPLES))
        assert all(it.rollout is not None and it.rollout["exact"] for it in group.results)
        assert len({it.reward for it in group.results}) == 2


def test_a_step_that_is_begun_again_has_the_same_groups(loop: Loop) -> None:
    used = [(it.step, it.groups) for it in loop.events if it.at == "used"]
    assert Counter(step for step, _ in used) == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1}
    assert len(set(used)) == STEPS


def test_nothing_is_paid_twice(results: list[Result], proxy: ModelProxy) -> None:
    """Each turn is requested once per run; only runs of the killed worker are repeated."""
    assert not proxy.seen.failures
    assert len({it.task_id for it in results}) == len(results)
    attempts = {it.seed or 0: it.attempt for it in results}
    assert {*attempts.values()} == {1, 2}
    assert sum(it == 2 for it in attempts.values()) <= SLOTS
    asked = times_asked(proxy.seen.sampled)
    for (seed, _), times in asked.items():
        assert times <= attempts.get(seed, 1)
    for result in results:
        if result.outcome == "ok":
            assert all(asked[result.seed or 0, 2 * turn + 1] >= 1 for turn in range(TURNS))


def test_no_batch_has_a_group_that_is_too_old(loop: Loop, groups: dict[str, RolloutGroup]) -> None:
    for event in last_events(loop.events, "used"):
        assert event.version == event.policy_version == event.step
        for group_id in event.groups:
            versions = [each for it in groups[group_id].goods for each in versions_of(it)]
            assert event.step - STALENESS <= min(versions) <= max(versions) <= event.step


def test_each_update_favours_what_was_better(loop: Loop) -> None:
    assert all(it.gain > 0 for it in loop.events if it.at == "loaded")


def test_spans_have_the_version_of_the_weights_that_sampled_them(
    loop: Loop, results: list[Result]
) -> None:
    """Each version's weights give the recorded values in torch; the previous ones do not."""
    rows = defaultdict[int, list[Row]](list)
    for result in results:
        for version, row in rows_of(result):
            rows[version].append(row)
    assert {*rows} >= {*range(STEPS)}
    own, others = list[float](), list[float]()
    for version in sorted(rows):
        model = model_of(weights_of(loop.project.folder, version))
        own += [each for row in rows[version] for each in differences(model, row)]
        others += [max(differences(model, row)) for row in rows.get(version + 1, [])[:COMPARED]]
    changed = [it.task_id for it in results if len(versions_of(it)) > 1]
    assert changed
    sys.stdout.write(
        f"loop: {len(results)} runs, {len(changed)} of them over an update; {len(own)} sampled ids "
        f"by {len(rows)} versions: log-probabilities differ from their version's by "
        f"{fmean(own):.6f} on average, {max(own):.6f} at most; from the version's before by at "
        f"least {min(others):.4f} in each turn\n"
    )
    assert max(own) <= MAX_DIFFERENCE < min(others)


def versions_of(result: Result) -> set[int]:
    return {version for version, _ in rows_of(result)}


def rows_of(result: Result) -> Iterator[tuple[int, Row]]:
    """By version: a segment of the run, with the positions of the ids that this version sampled."""
    for segment in (result.rollout or {}).get("segments", ()):
        places = {place for start, end in segment["sampled"] for place in range(start, end)}
        found = defaultdict[int, set[int]](set)
        for turn in segment["turns"]:
            for version, start, end in turn["versions"]:
                found[version] |= places & {*range(start, end)}
        yield from ((version, (segment, each)) for version, each in found.items() if each)


def differences(model: Any, row: Row) -> list[float]:
    """The difference of each recorded log-probability from the model's."""
    segment, ids = row
    places = [place for start, end in segment["sampled"] for place in range(start, end)]
    said = dict(zip(places, segment["logprobs"], strict=True))
    ours = logprobs_of(model, segment["token_ids"])
    return [abs(ours[place] - said[place]) for place in ids]
