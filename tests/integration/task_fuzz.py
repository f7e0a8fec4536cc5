"""Seeded mutations of task files: forbidden values in every place."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD: list[dict[str, Any]] = [
    {"question": "what is {{ ACCOUNT_NAME }}?", "metadata": {"a": [1, {"b": None}]}},
    {"question": "7", "evaluators": [{"func": "json", "op": "=", "value": 7, "name": "seven"}]},
    {"question": "7", "evaluators": [{"func": "judge:same", "value": "7", "op_args": {"x": 1}}]},
    {
        "question": '{"items": [{"price": 1}]}',
        "evaluators": [
            {"func": "json -> get(items) -> foreach -> get(price)", "op": "<", "value": 3},
            {"func": "raw", "op": "in", "value": ["x", "{{ ACCOUNT_NAME }}"], "weight": 2},
        ],
    },
    {"question": "?", "use_specified_server": True, "mcp_servers": [{"name": "notes"}]},
    {"question": "?", "sampling": {"temperature": 0.5, "max_tokens": 9}, "seed": 3},
    {"question": "?", "output_format": {"answer": "[a number]"}, "category": "general"},
    {"question": "?", "group_id": "g", "sample_index": 0, "group_size": 2, "policy_version": 1},
    {"question": "?", "prepares": [{"prepare_func": "x"}], "cleanups": [{"server": "notes"}]},
    {"question": "?", "priority": 5, "deadline": 4_000_000_000, "replay_of": "r"},
]


class Mutator:
    """Generates task files as bytes."""

    def __init__(self, seed: int, canary: Path, started: Path) -> None:
        self._dice = random.Random(seed)
        run = f"open({str(started)!r}, 'w').write('x')"
        command = f"touch {started}"
        self._questions = [command, run, f"{canary}", "$(" + command + ")", f"--output={started}"]
        self._functions = [
            *("os:system", "os.path:exists", "builtins:eval", "builtins:exec", "subprocess:call"),
            *("posixpath:os.system", "pathlib:Path.read_text", "judge:os.system", "judge:sys"),
            *(f"{canary}:x", "../judge.py:same", "/etc/passwd:f", f"{canary.parent}/judge.py:same"),
            *("judge.py:same", "judge:same.__globals__", "agentpipe.settings:Settings", "a:b:c"),
            *("raw -> exec(x)", "get({{ API_KEY }})", "json -> " * 500 + "len", "json(" * 99),
        ]
        self._secrets = [
            *("{{ API_KEY }}", "{{ CANARY_TOKEN }}", "{{API_KEY}}", "${CANARY_TOKEN}", "$API_KEY"),
            *(f"${{file:{canary}}}", "{{ config.API_KEY }}", "{% include 'x' %}", "%(API_KEY)s"),
            *("{{ ''.__class__.__mro__ }}", "<m:API_KEY>", "{0.__class__}", f"file://{canary}"),
        ]
        self._servers: list[Any] = [
            *({"name": name} for name in ("playwright", "github", "filesystem", "notion", "time")),
            {"name": "notes", "command": "touch", "args": [str(started)]},
            {"name": "notes", "tools": ["delete"], "env": {"X": "{{ API_KEY }}"}},
            {"name": "x", "url": "http://127.0.0.1:9/{{ API_KEY }}", "headers": {"A": "b"}},
            {"name": "notes", "gateway_address": "http://127.0.0.1:9"},
            {"name": str(canary)},
            {"name": ["notes"]},
        ]
        follows = {"actor_name": "toys_0", "queue_name": "toys_0", "args": [], "kwargs": {}}
        self._fields: dict[str, list[Any]] = {
            "question": [*self._questions, *self._secrets],
            "evaluators": [[{"func": func, "op": "=", "value": 0}] for func in self._functions]
            + [[{"func": "raw", "op": "in", "value": secret}] for secret in self._secrets],
            "mcp_servers": [[server] for server in self._servers],
            "use_specified_server": [True],
            "sampling": [
                {"extra_body": {"model": "dearer", "n": 99}},
                {"model": "dearer"},
                {"n": 99, "max_tokens": 10**9},
                {"base_url": "http://127.0.0.1:9"},
                {"stop_sequences": ["{{ API_KEY }}"]},
            ],
            "dramatiq": [{"pipe_target": follows}, {"on_success": "toys_0"}, {"time_limit": 1}],
            "answered": [
                {
                    "answer": "<m:API_KEY>",
                    "attempt": 1,
                    "failures": 0,
                    "trace": [],
                    "usage": {},
                    "mark": "m",
                }
            ],
            "task_id": [f"../../{canary}", "a\nb", "\u001b[2J", "x" * 300],
            "group_id": [f"../../{canary}", "*", "x" * 300],
            "metadata": [{"x": self._secrets[0]}, {"k" * 9_000: 1}],
            "deadline": [1, "2001-01-01T00:00:00Z", 1e300, "soon"],
            "priority": [2**63 - 1, -(2**63), 2**64],
            "config_hash": ["0" * 16],
            "category": [str(canary), "../.."],
            "cleanups": [[{"server": "github", "tool": "", "cleanup_func": "delete"}]],
            "schema": [2, None, "1"],
        }
        self._anything: list[Any] = [
            *(None, True, False, 0, -1, 1e308, 2**63, 2**70, "", " ", "\0", "\ud800", [], {}),
            *([[]], {"": ""}, "x" * 5_000, [0] * 500, "\u202e", *self._questions, *self._secrets),
            self._nested(60),
        ]

    def tasks(self, count: int) -> Iterator[bytes]:
        """Generate ``count`` files, each with one task, which may be damaged."""
        for _ in range(count):
            task = deepcopy(self._dice.choice(GOOD))
            if self._dice.random() < 0.3:
                task |= self._attack()
            for _ in range(self._dice.randint(0, 2)):
                self._change(task)
            yield self._written(task)

    def _attack(self) -> dict[str, Any]:
        """Fields that would do harm if one check were missing."""
        value = self._dice.choice([0, 1, *self._secrets])
        evaluator = {"func": self._dice.choice(self._functions), "op": "=", "value": value}
        return deepcopy(
            self._dice.choice(
                [
                    {"question": self._dice.choice(self._questions), "evaluators": [evaluator]},
                    {
                        "question": self._dice.choice(self._questions),
                        "use_specified_server": True,
                        "mcp_servers": [self._dice.choice(self._servers)],
                    },
                    {
                        "question": self._dice.choice(self._secrets),
                        "sampling": self._dice.choice(self._fields["sampling"]),
                    },
                ]
            )
        )

    def _change(self, task: dict[str, Any]) -> None:
        if self._dice.random() < 0.6:
            name = self._dice.choice(list(self._fields))
            task[name] = deepcopy(self._dice.choice(self._fields[name]))
            return
        place = self._dice.choice(list(_containers(task)))
        keys: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if isinstance(place, dict) and self._dice.random() < 0.3:
            keys.append(self._dice.choice([*self._fields, "env", "command", "url", "__class__"]))
        if not keys:
            return
        key = self._dice.choice(keys)
        if self._dice.random() < 0.8:
            place[key] = deepcopy(self._dice.choice(self._anything))
        elif isinstance(place, list) or key in place:
            del place[key]

    def _written(self, task: dict[str, Any]) -> bytes:
        data = bytearray(json.dumps(task).encode())
        if self._dice.random() < 0.1:
            for _ in range(self._dice.randint(1, 4)):
                data[self._dice.randrange(len(data))] = self._dice.randrange(256)
        return bytes(data).replace(b"\n", b" ").replace(b"\r", b" ")

    def _nested(self, depth: int) -> Any:
        return [self._nested(depth - 1)] if depth else "deep"


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)
