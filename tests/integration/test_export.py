"""``agentpipe export`` of a real stream."""

from __future__ import annotations

import csv
import io
import json
import stat
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml

from agentpipe.archive.export.columns import COLUMNS
from tests.integration.llm_bench import ODD
from tests.llm_stub import LlmStub, Reply, call, say

if TYPE_CHECKING:
    from tests.integration.project import Project
    from tests.llm_stub import Request

pytestmark = pytest.mark.process
RIGHT = [{"func": "raw", "op": "=", "value": "yes"}]


@pytest.fixture
def filled(project: Project) -> Project:
    """A project with three results, one of them a failure."""
    project.collection(number=1)
    project.send(
        {"task_id": "a", "question": "echo yes", "evaluators": RIGHT},
        {"task_id": "b", "question": "echo =1+1", "evaluators": RIGHT},
        {"task_id": "c", "question": "raise boom"},
    )
    project.burst("--processes", "1")
    return project


def test_each_format_of_rows_has_every_result_once(filled: Project) -> None:
    done = filled.ok("export", "--to", "jsonl", "out.jsonl", "--json")
    assert done.json == {"path": "out.jsonl", "format": "jsonl", "results": 3, "left_out": 0}
    file = filled.folder / "out.jsonl"
    lines = {each["task_id"]: each for each in map(json.loads, file.read_text().splitlines())}
    assert {name: each["reward"] for name, each in lines.items()} == {"a": 1, "b": 0, "c": None}
    assert lines["c"]["error_message"] == "boom"
    assert json.loads(lines["a"]["trace"])
    assert lines["b"]["question"] == "echo =1+1"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = filled.ok("export", "--to", "csv", "--no-trace", "--outcome", "ok", "-")
    cells = {each["task_id"]: each for each in csv.DictReader(io.StringIO(said.out, newline=""))}
    assert {name: each["result"] for name, each in cells.items()} == {"a": "yes", "b": "'=1+1"}
    assert list(cells["a"]) == [each.name for each in COLUMNS if each.name != "trace"]
    assert said.err == "2 results\n"


def test_a_file_that_exists_is_replaced_only_by_force(filled: Project) -> None:
    filled.write("out.jsonl", "mine")
    done = filled.run("export", "--to", "jsonl", "out.jsonl")
    assert (done.code, done.err) == (2, "out.jsonl exists: choose another path, or --force\n")
    assert (filled.folder / "out.jsonl").read_text() == "mine"
    said = filled.ok("export", "--to", "jsonl", "out.jsonl", "--force", "--outcome", "stale")
    assert said.out == "0 results: out.jsonl\n"
    assert "no result fits" in said.err
    assert (filled.folder / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--to", "parquet", "-"), "parquet cannot go to stdout: name a file"),
        (("--to", "jsonl", "--raw", "-"), "--raw has no effect on jsonl: it is for csv"),
        (("--to", "jsonl", "none/out"), "there is no folder none"),
        (("--to", "jsonl", "/dev/null", "--force"), "/dev/null is not a regular file"),
        (("--to", "jsonl", "-", "--sink", "kafka://127.0.0.1:1/t"), "agentpipe collect"),
        (("--to", "inspect", "-"), "inspect cannot go to stdout"),
        (("--to", "inspect", "--no-trace", "x.eval"), "it is for jsonl, csv, parquet"),
        (("--to", "csv", "--min-reward", "1", "-"), "it is for sft"),
        (("--to", "jsonl", "--run", "../x", "-"), "a run's name: 1 to 64"),
        (("--to", "jsnl", "-"), "did you mean 'jsonl'"),
    ],
)
def test_what_it_cannot_do_is_a_usage_error(
    project: Project, options: tuple[str, ...], words: str
) -> None:
    done = project.run("export", *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_without_pyarrow_it_names_what_to_install(filled: Project) -> None:
    filled.write("pyarrow.py", "raise ImportError('as if it were not installed')")
    done = filled.run(
        "export", "--to", "parquet", "o.parquet", env={"PYTHONPATH": str(filled.folder)}
    )
    assert done.code == 1
    assert "-m pip install 'dramatiq-agentpipe[parquet]'" in done.err
    assert not [each for each in filled.folder.iterdir() if "o.parquet" in each.name]


SECRET = "canary/of+context"


def _reveal(request: Request) -> Reply:
    """Call a tool that returns the secret, then quote it."""
    told = [each["content"] for each in request.body["messages"] if each["role"] == "tool"]
    return say(f"It is {told[0]}!") if told else call("odd__environ", text="T")


@pytest.mark.long
def test_conversations_of_a_model_are_exported_and_stay_masked(project: Project) -> None:
    server = {"name": "odd", "command": sys.executable, "args": [ODD], "env": {"T": "{{TOKEN}}"}}
    with LlmStub(_reveal) as stub:
        config = {"model": "openai:gpt-4o-mini", "base_url": stub.url, "servers": [server]}
        spec = {"name": "llm", "type": "llm", "config": config}
        project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
        env = {"OPENAI_API_KEY": "key-of-the-model", "TOKEN": SECRET}
        project.collection("llm", "./llm.yaml", context=[{"env": env}])
        tasks = [
            {"question": "What?", "task_id": f"p/{n}", "group_id": "p", "sample_index": n}
            for n in range(2)
        ]
        project.send(*tasks, to="llm")
        project.burst("--processes", "1")
    files = {}
    for name in ("jsonl", "csv", "sft", "inspect"):
        project.ok("export", "--to", name, f"out.{name}")
        files[name] = project.folder / f"out.{name}"
    lines = [json.loads(line) for line in files["sft"].read_text().splitlines()]
    assert [each["group"] for each in lines] == ["p", "p"]
    for line in lines:
        messages = line["messages"]
        assert [each["role"] for each in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[1]["tool_calls"][0]["function"]["name"] == "odd__environ"
        assert messages[-1]["content"] == "It is ***!"
        assert "odd__environ" in line["tools"]
    log = zipfile.ZipFile(files["inspect"])
    sample = json.loads(log.read("samples/p_epoch_2.json"))
    assert [each["event"] for each in sample["events"]] == ["model", "tool", "model"]
    assert sample["output"]["completion"] == "It is ***!"
    written = [log.read(each) for each in log.namelist()]
    written += [files[name].read_bytes() for name in ("jsonl", "csv", "sft")]
    assert not [each for each in written if SECRET.encode() in each]
