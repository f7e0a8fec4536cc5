"""Each agent sees its own credentials, and no other process or output does."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from tests.integration.project import Project

TASKS = 1_000
# Part of every credential, to detect any leak.
CANARY = "KANARIE"
TOKENS = {
    "A": f"{CANARY}-token-of-a",
    "B": f'{CANARY}"of\\b é\n{CANARY} in a second line\n',
}
WAYS = ("return", "raise", "log", "print", "span", "key", "tamper", "bytes", "retry")
NEVER = [{"func": "raw", "op": "=", "value": "never"}]


@pytest.mark.long
@pytest.mark.every_broker(long=("redis", "rabbitmq"))
def test_two_contexts_and_a_thousand_tasks_leak_nothing(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret_file = tmp_path_factory.mktemp("secrets") / "b"
    secret_file.write_text(TOKENS["B"])
    contexts = [
        {"env": {"WHO": "A", "TOKEN": "${TOKEN_A}"}},
        {"env": {"WHO": "B", "TOKEN": f"${{file:{secret_file}}}"}},
    ]
    TOKENS["B"] = TOKENS["B"].removesuffix("\n")
    # Retried tasks come last, and all fail in the same way.
    limits = {"max_queue_size": TASKS, "breaker": 0}
    for name, config in (("toys", "./agent.yaml"), ("plain", "./plain.yaml")):
        project.collection(name, config, number=2, context=contexts, **limits)
    environ = {"TOKEN_A": TOKENS["A"], "AGENTPIPE_LOG_LEVEL": "DEBUG"}
    fleets = [
        project.work("--processes", "1", "--slots", "6", env=environ | {"AGENTPIPE_LOG_FORMAT": f})
        for f in ("text", "json")
    ]
    wait_until(lambda: len(project.stats()["workers"]) == 2, 30, "workers serve")
    for name in ("toys", "plain"):
        tasks = [_task(name, number) for number in range(TASKS // 2)]
        project.ok("send", name, "--file", project.tasks(*tasks, name=f"{name}.jsonl"))
    command_lines = _command_lines(project)
    project.until(delivered=TASKS)
    command_lines += _command_lines(project)
    assert [fleet.stop() for fleet in fleets] == [0, 0]
    results = project.by_id()
    _assert_each_saw_its_own(results)
    _assert_tampering_is_in_vain(results)
    said = [project.ok(*command.split(), env=environ).out for command in SHOWN]
    assert all("***" in text for text in said[:2])
    assert CANARY not in "".join([*said, *command_lines])
    assert [str(path) for path in _files(project.folder) if CANARY.encode() in _read(path)] == []


SHOWN = (
    "tail --from beginning --timeout 0 --json",
    "tail --from beginning --timeout 0",
    "dead list",
    "dead list --json",
    "status",
    "check --json",
)


def _task(name: str, number: int) -> dict[str, Any]:
    leaks = number % 5 == 4
    way = WAYS[(number // 5) % len(WAYS)] if leaks else "digest"
    task = {
        "task_id": f"{name}-{number}-{way}",
        "question": f"leak {way}",
        "metadata": {"n": number},
    }
    return task | ({"evaluators": NEVER} if way == "tamper" else {})


def _assert_each_saw_its_own(results: dict[str, dict[str, Any]]) -> None:
    seen = Counter[str]()
    for result in results.values():
        assert result["outcome"] in ("ok", "agent_error", "infra_error"), result
        if result["task_id"].endswith("digest"):
            who = "AB"[int(result["agent"].rsplit("_", 1)[1]) % 2]
            digest = hashlib.sha256(TOKENS[who].encode()).hexdigest()
            assert result["result"] == {"who": who, "digest": digest, "names": ["WHO", "TOKEN"]}
            seen[result["agent"]] += 1
    assert len(seen) == 8
    assert sum(seen.values()) == TASKS * 4 / 5


def _assert_tampering_is_in_vain(results: dict[str, dict[str, Any]]) -> None:
    for task_id, result in results.items():
        assert result["metadata"] == {"n": int(task_id.split("-")[1])}
        assert result["reward"] == (0.0 if task_id.endswith("tamper") else None)


def _command_lines(project: Project) -> list[str]:
    return [
        _read(Path(f"/proc/{pid}/cmdline")).decode(errors="replace") for pid in project.processes()
    ]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
