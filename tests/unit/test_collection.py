"""Collections and agent configs load as MCP-Universe's do; mistakes are reported by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import Collection, ContextSpec, load, read
from agentpipe.config.contexts import resolve_contexts
from agentpipe.core.budgets import Budget
from agentpipe.core.context import Context
from agentpipe.errors import ConfigError, Problem

CANARY = "hunter2canary"

MCP_UNIVERSE = """\
kind: collection
spec:
  name: agent-collection-1
  config: agent-1.yaml
  number: 2
---
kind: collection
spec:
  name: agent-collection-2
  config: agent-2.yaml
---
kind: collection
spec:
  name: agent-collection-3
  config: agent-3.yaml
  context:
    - env:
        GITHUB_PERSONAL_ACCESS_TOKEN: xxx
        GITHUB_PERSONAL_ACCOUNT_NAME: xxx
    - env:
        GITHUB_PERSONAL_ACCESS_TOKEN: yyy
        GITHUB_PERSONAL_ACCOUNT_NAME: yyy
  number: 1
"""

REACT = """\
kind: llm
spec:
  name: llm-1
  type: openai
  config:
    model_name: gpt-4o
---
kind: agent
spec:
  name: ReAct-agent
  type: react
  config:
    llm: llm-1
    instruction: You are an agent for weather forecasting.
    servers:
      - name: weather
"""

WORKFLOW = """\
kind: llm
spec: {name: llm-1, type: openai, config: {model_name: gpt-4o}}
---
kind: agent
spec: {name: agent-1, type: basic, config: {llm: llm-1}}
---
kind: agent
spec: {name: agent-2, type: basic, config: {llm: llm-1}}
---
kind: agent
spec: {name: agent-3, type: basic, config: {llm: llm-1}}
---
kind: workflow
spec:
  name: workflow-1
  type: parallelization
  config: {agents: [agent-1, agent-2], aggregator: agent-3}
---
kind: agent
spec: {name: main, type: workflow, config: {workflow: workflow-1, instruction: Main agent}}
"""

CLAUDE_CODE = """\
kind: agent
spec:
  name: agent-1
  type: claude-code
  config:
    instruction: You are an agent for weather forecast
    servers:
      - name: weather
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a current folder that is not the collection's."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, text in {"1": REACT, "2": WORKFLOW, "3": CLAUDE_CODE}.items():
        (folder / f"agent-{name}.yaml").write_text(text)
    return folder


def write(folder: Path, text: str) -> Path:
    file = folder / "collection.yaml"
    file.write_text(text)
    return file


def spec(*lines: str) -> str:
    """A collection whose ``lines`` begin at line 5."""
    head = ["kind: collection", "spec:", "  name: a", "  config: agent-1.yaml"]
    return "\n".join([*head, *(f"  {line}" for line in lines)]) + "\n"


def problems_of(file: Path, loader: Any = load) -> list[tuple[int, str]]:
    with pytest.raises(ConfigError) as caught:
        loader(file)
    assert all(problem.file == str(file) for problem in caught.value.problems)
    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None or CANARY not in repr(caught.value.__context__)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def one(folder: Path, *lines: str) -> Collection:
    (collection,) = load(write(folder, spec(*lines)))
    return collection


# Collections that load.


def test_a_collection_of_mcp_universe_loads_unchanged(folder: Path) -> None:
    collections = load(write(folder, MCP_UNIVERSE))
    assert [len(collection.agents) for collection in collections] == [2, 1, 2]
    assert [collection.line for collection in collections] == [1, 7, 12]
    assert [collection.config_file for collection in collections] == [
        folder / f"agent-{number}.yaml" for number in (1, 2, 3)
    ]


def test_its_path_may_be_a_text_and_relative(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, MCP_UNIVERSE)
    monkeypatch.chdir(folder.parent)
    collection = load("configs/collection.yaml")[0]
    assert collection.file == folder / "collection.yaml"
    assert collection.config_file == folder / "agent-1.yaml"


def test_limits_have_defaults(folder: Path) -> None:
    expected = Collection(
        name="a", file=folder / "collection.yaml", line=1, config_file=folder / "agent-1.yaml"
    )
    assert one(folder) == expected


def test_limits_are_read(folder: Path) -> None:
    collection = one(
        folder,
        "number: 3",
        "max_queue_size: 5",
        "concurrency: 2",
        "time_limit: 1.5",
        "max_retries: 0",
        "max_crashes: 1",
        "max_cooldown_s: 90.5",
        "budget: {usd: 50, tokens: 5000000}",
        "isolation: thread",
    )
    assert collection == Collection(
        name="a",
        file=folder / "collection.yaml",
        line=1,
        config_file=folder / "agent-1.yaml",
        number=3,
        max_queue_size=5,
        concurrency=2,
        time_limit_s=1.5,
        max_retries=0,
        max_crashes=1,
        max_cooldown_s=90.5,
        budget=Budget(50.0, 5_000_000),
        isolation="thread",
    )


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("{}", "has no cap: give it usd, tokens or both"),
        ("{usd: 0}", "expected USD, a number above 0"),
        ("{usd: .nan}", "expected USD, a number above 0"),
        ("{tokens: 1.5}", "expected an integer from 1"),
        ("{dollars: 1}", "unknown key"),
        ("50", "expected keys with values"),
    ],
)
def test_a_budget_has_a_cap_that_can_be_reached(folder: Path, budget: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        one(folder, f"budget: {budget}")


@pytest.mark.parametrize("value", ["1", "0.5", "true", "false", "nothing", "[0]"])
def test_a_run_at_its_limit_is_worth_nothing_or_has_no_reward(folder: Path, value: str) -> None:
    assert one(folder).on_limit is None
    assert one(folder, "on_limit: 0").on_limit == 0
    assert one(folder, "on_limit: 0").fingerprint != one(folder).fingerprint
    with pytest.raises(ConfigError, match="on_limit: expected 0, got"):
        one(folder, f"on_limit: {value}")


def test_agents_take_turns_with_the_contexts(folder: Path) -> None:
    collection = one(folder, "number: 2", "context:", "- env: {A: x}", "- env: {A: y}", "- {}")
    agents = collection.agents
    assert [agent.context_index for agent in agents] == [0, 1, 2, 0, 1, 2]
    assert [agent.queue for agent in agents] == [f"a_{index}" for index in range(6)]
    assert {agent.collection for agent in agents} == {"a"}
    assert [agent.index for agent in agents] == list(range(6))


def test_agents_without_contexts_have_no_context_index(folder: Path) -> None:
    assert [agent.context_index for agent in one(folder, "number: 2").agents] == [None, None]
    assert one(folder, "context: []").contexts == ()


def test_agents_of_a_bounded_context_share_a_gate(folder: Path) -> None:
    collection = one(
        folder, "number: 2", "context:", "- concurrency: 3", "- {}", "- concurrency: '1'"
    )
    shared = [
        (agent.concurrency_group, agent.concurrency_group_limit) for agent in collection.agents
    ]
    assert shared == [("a/0", 3), (None, 1), ("a/2", 1)] * 2


def test_a_context_knows_its_lines(folder: Path) -> None:
    collection = one(folder, "context:", "- env:", "    A: x", "    B: ''", "  metadata: {m: [1]}")
    assert collection.contexts == (
        ContextSpec(
            env={"A": "x", "B": ""},
            metadata={"m": [1]},
            file=str(folder / "collection.yaml"),
            line=6,
            env_lines={"A": 7, "B": 8},
        ),
    )


@pytest.mark.parametrize("number", ["3", '"3"', "' 3 '", "3.0"])
def test_a_number_may_be_written_as_mcp_universe_takes_it(folder: Path, number: str) -> None:
    assert one(folder, f"number: {number}").number == 3


def test_a_config_is_sought_beside_the_collection_first(folder: Path) -> None:
    Path("agent-1.yaml").write_text(REACT)
    assert one(folder).config_file == folder / "agent-1.yaml"


def test_a_config_is_sought_in_the_current_folder_next(folder: Path) -> None:
    Path("agent-1.yaml").write_text(REACT)
    (folder / "agent-1.yaml").unlink()
    assert one(folder).config_file == Path.cwd() / "agent-1.yaml"


def test_a_config_may_be_absolute(folder: Path) -> None:
    text = spec().replace("agent-1.yaml", str(folder / "agent-2.yaml"))
    assert load(write(folder, text))[0].config_file == folder / "agent-2.yaml"


def test_no_repr_shows_a_value(folder: Path) -> None:
    collections = load(
        write(folder, spec("context:", f"- env: {{T: {CANARY}}}", f"  metadata: {{m: {CANARY}}}"))
    )
    assert CANARY not in repr(collections)
    assert "env=<T>" in repr(collections)


# Collection files that are refused.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("contexts: []", "spec.contexts: unknown key: did you mean 'context'?"),
        ("max_queue: 3", "spec.max_queue: unknown key: did you mean 'max_queue_size'?"),
        ("'time limit': 3", "spec.?: unknown key: did you mean 'time_limit'?"),
        ("number: 0", "spec.number: expected an integer from 1 to 1,000,000,000, got 0"),
        ("number: -1", "spec.number: expected an integer from 1 to 1,000,000,000, got -1"),
        ("number: 2.5", "spec.number: expected an integer from 1 to 1,000,000,000, got 2.5"),
        ("number: true", "spec.number: expected an integer from 1 to 1,000,000,000, got true"),
        ("number: 'x'", "spec.number: expected an integer from 1 to 1,000,000,000, got 'x'"),
        ("number: []", "spec.number: expected an integer from 1 to 1,000,000,000, got a list"),
        ("number:", "spec.number: has no value: give it one, or remove the key"),
        (
            "max_queue_size: 0",
            "spec.max_queue_size: expected an integer from 1 to 1,000,000,000, got 0",
        ),
        (
            "concurrency: 0",
            "spec.concurrency: expected an integer from 1 to 1,000,000,000, got 0",
        ),
        (
            "max_retries: -1",
            "spec.max_retries: expected an integer from 0 to 1,000,000,000, got -1",
        ),
        (
            "max_crashes: 0",
            "spec.max_crashes: expected an integer from 1 to 1,000,000,000, got 0",
        ),
        (
            "max_crashes: 10000000000000000000",
            (
                "spec.max_crashes: expected an integer from 1 to 1,000,000,000, "
                "got 10000000000000000000"
            ),
        ),
        ("isolation: threads", "spec.isolation: unknown value 'threads': did you mean 'thread'?"),
        (
            "isolation: x",
            "spec.isolation: unknown value 'x': choose from coroutine, process, thread",
        ),
        ("schedule: [{cron: '0 3 * * *'}]", "spec.schedule[0].tasks: missing: add it"),
        ("schedule:", "spec.schedule: has no value: give it one, or remove the key"),
        (
            "schedule: {cron: '0 3 * * *'}",
            "spec.schedule: expected a list: begin each entry with `- cron:`",
        ),
        (
            "schedule: [{cron: '0 3 * * *', tasks: agent-1.yaml, time_zone: UTC}]",
            "spec.schedule[0].time_zone: unknown key: did you mean 'timezone'?",
        ),
        (
            "schedule: [{cron: '0 3 * * *', tasks: agent-1.yaml, missed: run_onse}]",
            "spec.schedule[0].missed: unknown value 'run_onse': did you mean 'run_once'?",
        ),
        (
            "schedule: [{cron: '0 3 * *', tasks: agent-1.yaml}]",
            "spec.schedule[0].cron: '0 3 * *' has 4 fields: write minute hour day month weekday",
        ),
        (
            "schedule: [{cron: '0 3 30 feb *', tasks: agent-1.yaml}]",
            "spec.schedule[0].cron: '0 3 30 feb *' never fires: there is no such day",
        ),
        (
            "schedule: [{cron: '0 3 * * *', tasks: agent-1.yaml, timezone: Europe/Berln}]",
            (
                "spec.schedule[0].timezone: unknown time zone 'Europe/Berln': "
                "did you mean 'Europe/Berlin'?"
            ),
        ),
        ("context: {env: {A: x}}", "spec.context: expected a list: begin each entry with `- env:`"),
        (f"context: {CANARY}", "spec.context: expected a list: begin each entry with `- env:`"),
        ("context:", "spec.context: has no value: give it one, or remove the key"),
    ],
)
def test_a_wrong_key_is_named_with_its_remedy(folder: Path, line: str, message: str) -> None:
    assert problems_of(write(folder, spec("# line 5", line))) == [(6, message)]


@pytest.mark.parametrize("value", ["0", "-1", ".nan", ".inf", "-.inf", "true", "'60'", "2e9", "[]"])
def test_a_time_limit_is_finite_and_above_zero(folder: Path, value: str) -> None:
    ((line, message),) = problems_of(write(folder, spec(f"time_limit: {value}")))
    assert line == 5
    assert message.startswith("spec.time_limit: expected seconds, a number above 0")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("''", "expected a string that is not empty"),
        ("' '", "expected a string that is not empty"),
        ("1a", "invalid name '1a': use letters, digits, _ and -"),
        ("a b", "invalid name 'a b': use"),
        ("a.b", "invalid name 'a.b': use"),
        ("$(rm)", "invalid name '$(rm)': use"),
        ('"a\\n"', "invalid name 'a\\n': use"),
        ("é", "invalid name 'é': use"),
        ("1", "expected a string, got 1: put it in quotes"),
        ("no", "expected a string, got false: put it in quotes"),
        ("[a]", "expected a string, got a list"),
        ("a" * 201, "longer than 200 characters"),
        ("", "has no value"),
    ],
)
def test_a_name_must_suit_a_queue(folder: Path, name: str, words: str) -> None:
    text = spec().replace("name: a", f"name: {name}")
    ((line, message),) = problems_of(write(folder, text))
    assert line == 3
    assert message.startswith(f"spec.name: {words}")


def test_names_are_unique_in_a_file(folder: Path) -> None:
    assert problems_of(write(folder, spec() + "---\n" + spec())) == [
        (8, "spec.name: the name 'a' is already used in line 3: choose another")
    ]


def test_a_missing_config_is_refused_with_the_places(folder: Path) -> None:
    text = spec().replace("agent-1.yaml", "none.yaml")
    assert problems_of(write(folder, text)) == [
        (
            4,
            (
                f"spec.config: no such file: tried '{folder}/none.yaml', "
                "then from the current folder and from each folder above; "
                "write its path from this file's folder"
            ),
        )
    ]


@pytest.mark.parametrize("config", [".", "x" * 5000])
def test_a_config_that_is_no_file_is_refused(folder: Path, config: str) -> None:
    ((line, message),) = problems_of(write(folder, spec().replace("agent-1.yaml", config)))
    assert line == 4
    assert message.startswith("spec.config: no such file: tried ")


@pytest.mark.parametrize("config", ["''", "3", '"a\\0b"'])
def test_a_config_that_is_no_text_is_refused(folder: Path, config: str) -> None:
    ((line, message),) = problems_of(write(folder, spec().replace("agent-1.yaml", config)))
    assert line == 4
    assert message.startswith("spec.config: expected a string")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]\n", [(1, "expected keys with values (`key: value`)")]),
        ("kind: collection\n", [(1, "spec: missing: add it")]),
        (
            "kind: collection\nspec: 3\n",
            [(2, "spec: expected keys with values (`key: value`)")],
        ),
        (
            "kind: collection\nspec:\n",
            [(2, "spec: has no value: give it one, or remove the key")],
        ),
        (
            "kind: collection\nspec: {}\n",
            [(2, "spec.config: missing: add it"), (2, "spec.name: missing: add it")],
        ),
        (
            "spec: {name: a, config: agent-1.yaml}\n",
            [(1, "kind: missing: add it")],
        ),
        (
            "spec: {name: a, config: agent-1.yaml}\nkind: colection\n",
            [(2, "kind: unknown value 'colection': did you mean 'collection'?")],
        ),
        (
            REACT,
            [
                (1, "kind: this is an agent config: give the collection file that names it"),
                (8, "kind: this is an agent config: give the collection file that names it"),
            ],
        ),
        (
            "kind: collection\nversion: 2\n" + spec().removeprefix("kind: collection\n"),
            [(2, "version: unknown key: choose from kind, spec")],
        ),
    ],
)
def test_a_document_that_is_no_collection_is_refused(
    folder: Path, text: str, expected: list[tuple[int, str]]
) -> None:
    assert sorted(problems_of(write(folder, text))) == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("env: {A: 12345}", "env.A: expected a string, got an integer: put the value in quotes"),
        (
            "env: {A: 1.25}",
            "env.A: expected a string, got a decimal number: put the value in quotes",
        ),
        ("env: {A: no}", "env.A: expected a string, got a boolean: put the value in quotes"),
        ("env: {A: }", "env.A: expected a string, got nothing: put the value in quotes"),
        (
            f"env: {{A: [{CANARY}]}}",
            "env.A: expected a string, got a list: write one value",
        ),
        (f'env: {{A: "{CANARY}\\0"}}', "env.A: contains a NUL character: remove it"),
        (
            f"env: {{A:{CANARY}}}",
            (
                "env.?: invalid name for env: use letters, digits and _, no digit first, "
                "and a space after the colon"
            ),
        ),
        (
            "env: {A-B: x}",
            (
                "env.A-B: invalid name for env: use letters, digits and _, no digit first, "
                "and a space after the colon"
            ),
        ),
        (f"env: {CANARY}", "env: expected keys with values (`key: value`), got a string"),
        (f"env: [A={CANARY}]", "env: expected keys with values (`key: value`), got a list"),
        ("env:", "env: has no value: give it one, or remove the key"),
        ("metadata: 3", "metadata: expected keys with values (`key: value`), got an integer"),
        (f"envs: {{A: {CANARY}}}", "envs: unknown key: did you mean 'env'?"),
        (f"TOKEN: {CANARY}", "TOKEN: unknown key: choose from concurrency, env, metadata, public"),
        (
            "concurrency: 0",
            "concurrency: expected an integer from 1 to 1,000,000,000, got 0",
        ),
        ("concurrency:", "concurrency: has no value: give it one, or remove the key"),
        ("public: A", "public: expected a list of names: [NAME, ...]"),
        (
            f"{{env: {{A: x}}, public: [A, {CANARY}]}}",
            "public: entry 2 is not a name of env: add it there",
        ),
    ],
)
def test_a_wrong_context_is_named_without_its_values(
    folder: Path, entry: str, message: str
) -> None:
    file = write(folder, spec("context:", "- env: {A: x}", f"- {entry}"))
    assert problems_of(file) == [(7, f"spec.context[1].{message}")]


@pytest.mark.parametrize("entry", [CANARY, "", "[]"])
def test_a_context_entry_without_keys_is_refused(folder: Path, entry: str) -> None:
    ((line, message),) = problems_of(write(folder, spec("context:", f"- {entry}")))
    assert line == 6
    assert message.startswith("spec.context[0]: ")


def test_too_many_agents_are_refused_where_they_become_too_many(folder: Path) -> None:
    text = spec("number: 99999") + "---\n" + spec("number: 1").replace("name: a", "name: b")
    assert len(load(write(folder, text))) == 2
    text = text.replace("number: 1\n", "number: 2\n")
    assert problems_of(write(folder, text)) == [
        (
            11,
            "spec.number: 100,001 agents up to here, at most 100,000 per file: reduce number",
        )
    ]


def test_contexts_count_for_the_limit_of_agents(folder: Path) -> None:
    text = spec("context: [{}, {}]", "number: 50001")
    ((line, message),) = problems_of(write(folder, text))
    assert line == 6
    assert message.startswith("spec.number: 100,002 agents")


def test_all_problems_of_a_file_are_told_at_once_in_its_order(folder: Path) -> None:
    first = spec("number: 0", "contexts: []", "schedule: {}").replace("agent-1", "none")
    second = spec("context:", "- env:", "    A: 1", "    B: 2", "isolation: fiber")
    problems = problems_of(write(folder, f"{first}---\n{second}"))
    assert [(line, message.split(": ")[0]) for line, message in problems] == [
        (4, "spec.config"),
        (5, "spec.number"),
        (6, "spec.contexts"),
        (7, "spec.schedule"),
        (11, "spec.name"),
        (15, "spec.context[0].env.A"),
        (16, "spec.context[0].env.B"),
        (17, "spec.isolation"),
    ]


def test_a_bad_yaml_file_is_refused_by_line(folder: Path) -> None:
    ((line, message),) = problems_of(write(folder, spec("number: 1", "number: 2")))
    assert (line, message) == (6, "duplicate key 'number', first in line 5: keep one")


# Contexts in a worker.


def test_contexts_resolve_for_each_collection(folder: Path) -> None:
    text = spec("context:", '- env: {T: "${A}"}', '- {env: {T: "${B}"}, metadata: {m: 1}}')
    collections = load(write(folder, text + "---\n" + spec().replace("name: a", "name: b")))
    contexts = resolve_contexts(collections, {"A": "one", "B": "two"})
    assert contexts == {
        "a": (Context({"T": "one"}), Context({"T": "two"}, {"m": 1})),
        "b": (Context(),),
    }
    for collection in collections:
        for agent in collection.agents:
            assert contexts[agent.collection][agent.context_index or 0] is not None


def test_everything_that_all_contexts_miss_is_told_at_once(folder: Path) -> None:
    first = spec("context:", f'- env: {{T: "{CANARY}${{A}}", U: "${{B}}"}}', '- env: {T: "${B}"}')
    second = spec("context:", "- env:", '    T: "${file:/none/such}"', '    U: "${"')
    file = write(folder, f"{first}---\n{second}".replace("name: a", "name: z", 1))
    with pytest.raises(ConfigError) as caught:
        resolve_contexts(load(file), {"C": CANARY})
    assert [(problem.file, problem.line) for problem in caught.value.problems] == [
        (str(file), line) for line in (6, 6, 7, 15, 16)
    ]
    assert caught.value.problems[0] == Problem(
        "env T: the variable A is not set: set it where the workers start", str(file), 6
    )
    assert CANARY not in str(caught.value)


# Agent configs.


@pytest.mark.parametrize(
    ("text", "kind", "name", "line"),
    [
        (REACT, "react", "ReAct-agent", 8),
        (WORKFLOW, "parallelization", "workflow-1", 13),
        (CLAUDE_CODE, "claude-code", "agent-1", 1),
        (
            WORKFLOW.replace("{name: main,", "{name: main, is_main: true,"),
            "workflow",
            "main",
            19,
        ),
    ],
)
def test_the_entry_point_is_found(folder: Path, text: str, kind: str, name: str, line: int) -> None:
    file = write(folder, text)
    found = load_agent_config(file)
    assert (found.type, found.name, found.line, found.file) == (kind, name, line, file)
    assert len(found.documents) == text.count("---") + 1


def test_an_agents_own_keys_are_the_engines_business(folder: Path) -> None:
    text = "kind: agent\nspec: {name: a, type: python, config: {class: 'a:B', any: [1]}}\n"
    assert load_agent_config(write(folder, text)).config == {"class": "a:B", "any": [1]}


def test_a_config_without_keys_of_its_own_is_empty(folder: Path) -> None:
    text = "kind: agent\nspec: {name: a, type: basic, is_main: }\n"
    assert load_agent_config(write(folder, text)).config == {}


def test_an_agent_configs_repr_shows_no_value(folder: Path) -> None:
    text = f"kind: agent\nspec: {{name: a, type: x, config: {{api_key: {CANARY}}}}}\n"
    assert CANARY not in repr(load_agent_config(write(folder, text)))


AGENT = "kind: agent\nspec:\n  name: a\n  type: basic\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            AGENT.replace("agent", "agnet"),
            1,
            "kind: unknown value 'agnet': did you mean 'agent'?",
        ),
        (
            AGENT.replace("agent", "benchmark"),
            1,
            "nothing to run: add a document of kind agent",
        ),
        (
            MCP_UNIVERSE.split("---", maxsplit=1)[0],
            1,
            "kind: this is a collection: give the agent config that it names",
        ),
        (AGENT + "  main: true\n", 5, "spec.main: unknown key: did you mean 'is_main'?"),
        (AGENT + "  confg: {}\n", 5, "spec.confg: unknown key: did you mean 'config'?"),
        (AGENT + "specs: {}\n", 5, "specs: unknown key: did you mean 'spec'?"),
        (AGENT + "  is_main: 'yes'\n", 5, "spec.is_main: expected true or false, got 'yes'"),
        (
            AGENT + f"  config: [{CANARY}]\n",
            5,
            "spec.config: expected keys with values (`key: value`), got a list",
        ),
        (AGENT.replace("  type: basic\n", ""), 2, "spec.type: missing: add it"),
        (
            AGENT.replace("basic", "3"),
            4,
            "spec.type: expected a string, got 3: put it in quotes",
        ),
        (
            AGENT.replace("name: a", "name: ''"),
            3,
            "spec.name: expected a string that is not empty and has no NUL",
        ),
        (
            AGENT + "---\n" + AGENT,
            8,
            "spec.name: the name 'a' is already used in line 3: choose another",
        ),
        (
            AGENT + "---\n" + AGENT.replace("name: a", "name: b"),
            1,
            "which of 'a', 'b' is to run? Write `is_main: true` into the spec of one",
        ),
        (
            AGENT.replace("agent", "llm"),
            1,
            "nothing to run: add a document of kind agent",
        ),
        (
            AGENT.replace("agent", "llm") + "  is_main: true\n",
            5,
            "spec.is_main: an llm cannot run on its own: mark the agent or workflow that uses it",
        ),
        (
            f"{AGENT}  is_main: true\n---\n{AGENT}  is_main: true\n".replace(": a\n", ": b\n", 1),
            11,
            "spec.is_main: the document in line 1 has is_main already: keep one",
        ),
    ],
)
def test_a_wrong_agent_config_is_refused(folder: Path, text: str, line: int, message: str) -> None:
    assert problems_of(write(folder, text), load_agent_config) == [(line, message)]


def test_two_workflows_and_one_agent_mean_the_agent(folder: Path) -> None:
    workflow = AGENT.replace("agent", "workflow")
    text = "---\n".join([workflow, workflow.replace(": a", ": b"), AGENT.replace(": a\n", ": c\n")])
    assert load_agent_config(write(folder, text)).name == "c"


def test_all_problems_of_an_agent_config_are_told_at_once(folder: Path) -> None:
    text = AGENT.replace("basic", "''") + "  x: 1\n---\n" + AGENT.replace("kind: agent", "kind: x")
    problems = problems_of(write(folder, text), load_agent_config)
    assert [line for line, _ in problems] == [4, 5, 7, 9]


def test_a_context_says_what_its_tasks_may_read(folder: Path) -> None:
    entries = [
        "- env: {A: x, B_KEY: y}",
        "- {env: {A: x, B_KEY: y}, public: [B_KEY]}",
        "- {env: {A: x}, public: []}",
    ]
    collections = load(write(folder, spec("context:", *entries)))
    contexts = resolve_contexts(collections, {})["a"]
    assert [dict(each.readable) for each in contexts] == [{"A": "x"}, {"B_KEY": "y"}, {}]


def test_a_collection_offers_the_functions_of_its_folder_and_of_its_modules(folder: Path) -> None:
    (collection,) = load(write(folder, spec("evaluators: [far.judges]")))
    functions = collection.functions
    assert (functions.folder, functions.modules) == (folder, ("far.judges",))
    assert functions.is_here


def test_schedules_have_their_defaults_and_the_name_of_their_file(folder: Path) -> None:
    (folder / "nightly.jsonl").write_text('{"question": "x"}\n')
    entry = "schedule: [{cron: '0 3 * * *', tasks: ./nightly.jsonl}]"
    (only,) = load(write(folder, spec(entry)))
    (found,) = only.schedule
    assert (found.name, found.timezone, found.missed) == ("nightly", "UTC", "run_once")
    assert (found.tasks_file, found.line) == (folder / "nightly.jsonl", 5)


def test_a_missing_task_file_is_named_with_what_is_like_it(folder: Path) -> None:
    (folder / "nightly.jsonl").write_text("")
    entry = ["schedule:", "- cron: 0 3 * * *", "  tasks: nigthly.jsonl"]
    ((line, message),) = problems_of(write(folder, spec(*entry)))
    assert line == 7
    assert message.startswith("spec.schedule[0].tasks: no such file: tried")
    assert message.endswith("did you mean 'nightly.jsonl'?")


def test_two_schedules_of_a_collection_have_two_names(folder: Path) -> None:
    (folder / "n.jsonl").write_text("")
    entries = ["- {cron: 0 3 * * *, tasks: n.jsonl}", "- {cron: 0 4 * * *, tasks: n.jsonl}"]
    ((line, message),) = problems_of(write(folder, spec("schedule:", *entries)))
    assert (line, message.partition(": ")[2]) == (
        7,
        "the schedule in line 6 has the name 'n' already: give one of them another",
    )


def test_a_mistake_that_two_collections_share_is_told_once() -> None:
    error = ConfigError(
        [Problem("no method", "agent.yaml", 1), Problem("no method", "agent.yaml", 1)]
    )
    assert str(error) == "agent.yaml:1: no method"


@pytest.mark.parametrize(
    "text",
    [
        "kind: collection\nspec: 3\n",
        "3\n",
        "kind: collection\nspec: {context: [3, {env: 4}, {env: {A: a}}, null]}\n",
        "kind: collection\nspec: {schedule: [1, {}, null, {tasks: 3}]}\n",
        "kind: collection\nspec: {context: {}, schedule: 5, name: [], config: {}}\n",
        "kind: agent\nspec: {name: a, type: b}\n",
    ],
)
def test_what_is_wrong_leaves_the_rest_to_be_looked_at(folder: Path, text: str) -> None:
    good = "---\nkind: collection\nspec: {name: good, config: ./agent.yaml}\n"
    (folder / "agent.yaml").touch()
    (folder / "c.yaml").write_text(text + good)
    (*_, last), problems = read(folder / "c.yaml")
    assert (last.name, last.config_file) == ("good", folder / "agent.yaml")
    assert problems
    with pytest.raises(ConfigError) as caught:
        load(folder / "c.yaml")
    assert set(caught.value.problems) == set(problems)
