"""Measures groups of samples: ``python -m bench.groups [sqlite | redis] [kills | waste | slow]``.

Kills: 500 groups of 8 while 60 workers are killed. Waste: runs that taught nothing if 1 of 20
fails. Slow: how long a batch takes if 1 of 10 runs takes 20 times as long.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Dispatcher, GroupStream, Settings, load
from agentpipe.chaos.ledger import runs_in
from agentpipe.chaos.strikes import Strikes
from agentpipe.sending.groups import REPAIRS
from bench.faults import BETWEEN_FAULTS_S, SERVERS
from bench.figures import show
from bench.fleet import Fleet, fleet, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe import RolloutGroup

SIZE, FAILING = 8, 0.05
GROUPS, KILLS, PROCESSES, SLOTS, RUN_S, LEASE_S, MAX_CRASHES = 500, 60, 4, 8, 0.5, 5, 20
BATCH, SPARES, SLOW_TIMES, SHORT_S, ROUNDS = 32, 2, 20, 1.0, 3
MOST_WASTED, MOST_TIMES = 0.06, 1.3
# The trainer restarts from its state after this many groups.
GROUPS_A_SESSION = 60
PATIENCE_S = 300.0
JUDGED = [{"func": "raw", "op": "contain", "value": "1"}]


@dataclass
class Scratch:
    """A fleet, and the journal of its agents."""

    fleet: Fleet
    journal: Path

    def send(self, groups: int, *, name: str = "g", **options: Any) -> None:
        tasks = [
            {"task_id": f"{name}-{number}", "question": "q", "evaluators": JUDGED}
            for number in range(groups)
        ]
        collections = load(self.fleet.environ["AGENT_COLLECTION_CONFIG_FILE"])
        with Dispatcher.open(collections, self.settings, results=False) as dispatcher:
            dispatcher.send_groups("bench", tasks, SIZE, **options)

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.fleet.environ)

    def begun(self) -> dict[str, list[float]]:
        """Start times of each task's runs."""
        found = defaultdict[str, list[float]](list)
        for run in runs_in(self.journal):
            found[run.task_id].append(run.at)
        return found


@dataclass
class Used:
    """What a trainer received, over several sessions."""

    groups: list[RolloutGroup] = field(default_factory=list)
    state: dict[str, Any] | None = None

    @property
    def members(self) -> Counter[str]:
        return Counter(result.task_id for group in self.groups for result in group.results)

    def read(self, scratch: Scratch, number: int) -> Used:
        """Read up to ``number`` groups of any status, whatever their rewards."""
        while len(self.groups) < number:
            if not self._session(scratch, min(number, len(self.groups) + GROUPS_A_SESSION)):
                break
        return self

    def _session(self, scratch: Scratch, number: int) -> bool:
        stream = GroupStream.open(
            scratch.settings,
            group="trainer",
            timeout_s=PATIENCE_S,
            min_good=0,
            keep=lambda _: True,
        )
        with stream:
            if self.state is not None:
                stream.load_state_dict(self.state)
            for group in stream:
                self.groups.append(group)
                self.state = stream.state_dict()
                if len(self.groups) == number:
                    return True
        return False


def kills(url: str) -> bool:
    """Whether no group came incomplete or twice, and nothing ran after its Result."""
    with _scratch(url, SLOTS, pause_s=RUN_S, failing=FAILING) as scratch:
        scratch.fleet.environ |= {"AGENTPIPE_LEASE_S": str(LEASE_S)}
        scratch.send(GROUPS)
        began = time.monotonic()
        with scratch.fleet.working("--processes", str(PROCESSES), "--slots", str(SLOTS)):
            strikes = Strikes(scratch.fleet.worker_pids)
            striking = threading.Thread(target=_kill_all_the_time, args=(strikes,))
            striking.start()
            used = Used().read(scratch, GROUPS)
            striking.join()
        return _judge(scratch, used, time.monotonic() - began, len(strikes.at))


def _kill_all_the_time(strikes: Strikes) -> None:
    for _ in range(KILLS):
        strikes.kill()
        time.sleep(BETWEEN_FAULTS_S)


def _judge(scratch: Scratch, used: Used, took_s: float, killed: int) -> bool:
    results = {it["task_id"]: it for it in scratch.fleet.results(10**6, patience_s=2.0)}
    begun, statuses = scratch.begun(), Counter(group.status for group in used.groups)
    partial = sum(not _is_whole(group) for group in used.groups)
    twice = sum(number > 1 for number in used.members.values())
    ended = {name: seconds(it["finished_at"]) for name, it in results.items()}
    after = sum(at > ended[name] for name, times in begun.items() for at in times)
    lost = GROUPS - len({group.group_id for group in used.groups})
    runs = sum(map(len, begun.values()))
    show(f"{GROUPS} groups of {SIZE}, {killed} kills", f"{took_s:.0f} s", f"{runs:,} runs")
    show("  groups that came", str(len(used.groups)), str(dict(statuses)))
    show("  groups in part", str(partial))
    show("  members twice", str(twice))
    show("  runs that began after their task's result", str(after))
    show("  groups that never came", str(lost))
    return killed == KILLS and not (partial or twice or after or lost)


def _is_whole(group: RolloutGroup) -> bool:
    samples = {result.sample_index for result in group.results}
    enough = len(group.goods) >= SIZE or group.status != "complete"
    return samples == set(range(SIZE)) and enough


def waste(url: str) -> bool:
    """Whether at most 6 % of the runs taught nothing."""
    shares = []
    for repairs in (0, 2, REPAIRS):
        with _scratch(url, 4 * SLOTS, pause_s=0.02, failing=FAILING) as scratch:
            scratch.send(GROUPS, repairs=repairs)
            with scratch.fleet.working("--processes", "2", "--slots", "16"):
                used = Used().read(scratch, GROUPS)
            runs = sum(map(len, scratch.begun().values()))
        complete = [group for group in used.groups if group.status == "complete"]
        shares.append(1 - sum(len(group.goods) for group in complete) / runs)
        beside = f"{len(complete)} of {len(used.groups)} groups complete, {runs:,} runs"
        show(f"runs wasted with {repairs} repairs a group", f"{shares[-1]:.2%}", beside)
    return shares[-1] <= MOST_WASTED


def slow(url: str) -> bool:
    """Whether spares limit the cost of stragglers to 1.3 times the base."""
    base = _batch_s(url, "none", 0)
    show(f"a batch of {BATCH} groups of {SIZE}, none slow", f"{base:.2f} s")
    times = {}
    for kind, spares in (("each", 0), ("each", SPARES), ("drawn", SPARES)):
        took_s = _batch_s(url, kind, spares)
        times[kind, spares] = took_s / base
        said = "one slow in each group" if kind == "each" else "each slow by a chance of 0.1"
        show(f"  {said}, {spares} spares", f"{took_s:.2f} s", f"{took_s / base:.2f} x")
    return times["each", SPARES] <= MOST_TIMES


def _batch_s(url: str, kind: str, spares: int) -> float:
    """Seconds from first send to last group; the best round, as other work uses the cores."""
    agents = BATCH * (SIZE + SPARES)
    with ExitStack() as stack:
        scratch = stack.enter_context(
            _scratch(url, agents, number=1, pause_s=SHORT_S, slow=kind, times=SLOW_TIMES)
        )
        options = ("--processes", "1", "--slots", str(agents))
        stack.enter_context(scratch.fleet.working(*options))
        used, took_s = Used(), list[float]()
        for number in range(ROUNDS):
            began = time.monotonic()
            scratch.send(BATCH, spares=spares, name=f"round-{number}")
            used.read(scratch, BATCH * (number + 1))
            took_s.append(time.monotonic() - began)
        return min(took_s)


@contextmanager
def _scratch(url: str, concurrency: int, *, number: int = 8, **config: Any) -> Iterator[Scratch]:
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        journal.touch()
        place = f"{url}?prefix={Path(folder).name}" if url else ""
        options = {"journal": str(journal), **config}
        with fleet(number, "Sampled", place, concurrency, **options) as scratch:
            scratch.limit(max_crashes=MAX_CRASHES, max_retries=0, breaker=0)
            yield Scratch(scratch, journal)


MEASURES = {"kills": kills, "waste": waste, "slow": slow}


def main() -> None:
    brokers = [name for name in sys.argv[1:] if name not in MEASURES] or ["sqlite"]
    measures = [name for name in sys.argv[1:] if name in MEASURES] or list(MEASURES)
    held = []
    for broker in brokers:
        with ExitStack() as stack:
            url = ""
            if server := SERVERS.get(broker):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = stack.enter_context(server(folder, environ=os.environ)).url
            show(broker, "", f"load {os.getloadavg()[0]:.1f}")
            held += [MEASURES[name](url) for name in measures]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
