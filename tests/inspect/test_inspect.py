"""inspect_ai reads, re-scores and shows the logs that we write; run by `make test-inspect`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.log import (
    EvalLog,
    EvalSample,
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
    recompute_metrics,
)

from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from tests.inspect.results import HARD, QUESTION, asked, failed, ok, records

if TYPE_CHECKING:
    from pathlib import Path

TOO_SLOW = {
    "type": "TimeLimitExceeded",
    "message": "... its time limit of 1.5 s.",
    "traceback": None,
}
# Four samples of each of two tasks, one of them retried; and one for each other outcome.
SAMPLES = (
    *(asked(1, sample, float(sample > 0)) for sample in range(4)),
    *(asked(2, sample, None if sample == 3 else sample / 4) for sample in range(3)),
    replace(failed(2), task_id="v2/p2/3", group_id="v2/p2", sample_index=3),
    asked(2, 3, 0.75, task_id="v2/p2/3~r1", retry_of="v2/p2/3"),
    ok(3, {"sum": 4}),
    replace(failed(4), group_id="v2/p4"),
    replace(ok(5), outcome="limit", error=TOO_SLOW, reward=None, result=None),
    replace(ok(6), task_id="v2/../../6\0", group_id=None, sample_index=None),
    ok(7, "x" * 10_000_000),
)


def exported(folder: Path, *results: Result) -> Path:
    """Export the results with the command; return the log."""
    sink = f"sqlite:///{folder / 'results.db'}"
    opened = open_sink(Settings(sink=sink))
    opened.publish(records(*results))
    opened.close()
    command = [sys.executable, "-m", "agentpipe", "export", "--run", "v2", "--to", "inspect"]
    path = folder / "v2.eval"
    subprocess.run([*command, "--sink", sink, str(path)], check=True, timeout=100)
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of ``SAMPLES``."""
    return exported(tmp_path_factory.mktemp("logs"), *SAMPLES)


def sample(log: Path, name: str, epoch: int = 1) -> EvalSample:
    return read_eval_log_sample(str(log), name, epoch)


def test_the_log_is_read_whole(log: Path) -> None:
    found = read_eval_log(str(log))
    assert (found.version, found.status, found.eval.task) == (2, "success", "crew")
    assert (found.eval.run_id, found.eval.model) == ("v2", "openai/tiny")
    assert found.eval.config.epochs == 4
    places = {(each.id, each.epoch) for each in found.samples or []}
    assert len(places) == len(found.samples or []) == len(SAMPLES) - 1
    assert {("p1", 1), ("p1", 4), ("p2", 4), ("p3", 1)} <= places
    assert {each.id for each in found.samples or []} == set(found.eval.dataset.sample_ids or [])
    assert found.results is not None
    assert found.results.completed_samples == len(SAMPLES) - 2


def test_the_head_and_the_summaries_are_read_alone(log: Path) -> None:
    assert read_eval_log(str(log), header_only=True).results is not None
    summaries = read_eval_log_sample_summaries(str(log))
    assert len(summaries) == len(SAMPLES) - 1
    by_id = {(each.id, each.epoch): each for each in summaries}
    assert by_id["p1", 2].scores is not None
    assert by_id["p5", 1].limit == "time"
    assert (by_id["p4", 1].error or "").startswith("agent_error: ValueError: ")


def metrics(log: EvalLog) -> dict[str, dict[str, float]]:
    assert log.results is not None
    return {
        each.name: {name: metric.value for name, metric in each.metrics.items()}
        for each in log.results.scores
    }


def test_their_metrics_are_ours(log: Path) -> None:
    found = read_eval_log(str(log))
    ours, completed = metrics(found), found.results and found.results.completed_samples
    assert set(ours) == {"reward", "exact"}
    recompute_metrics(found)
    theirs = metrics(found)
    assert {name: pytest.approx(values) for name, values in ours.items()} == theirs
    assert found.results is not None
    assert found.results.completed_samples == completed
    # Mean of the means of p1 (3/4) and p2 (3/8), and of three others with a reward of 1.
    assert ours["reward"]["mean"] == pytest.approx((0.75 + 0.375 + 3) / 5)


def test_a_sample_has_its_conversation_and_events(log: Path) -> None:
    found = sample(log, "p1", 2)
    assert (found.uuid, found.input, found.target) == ("v2/p1/1", QUESTION, "4")
    assert [each.role for each in found.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    (call,) = found.messages[2].tool_calls
    assert (call.id, call.function, call.arguments) == ("c1", "math__add", {"a": 2})
    assert found.output.completion == found.messages[-1].text == HARD
    assert [each.event for each in found.events] == ["model", "tool", "model", "info"]
    first, tool, last, _ = found.events
    assert [each.role for each in first.input] == ["system", "user"]
    assert [each.role for each in last.input] == [each.role for each in found.messages[:-1]]
    assert (tool.id, tool.result, tool.arguments) == ("c1", "4", {"a": 2})
    usage = found.model_usage["openai/tiny"]
    assert (usage.input_tokens, usage.input_tokens_cache_read, usage.total_cost) == (7, 3, 0.25)
    assert found.scores is not None
    assert (found.scores["reward"].value, found.scores["exact"].value) == (1.0, 0.5)
    assert found.metadata["agentpipe"]["policy_version"] == 3
    assert found.metadata["secret"] == "***"


def test_failures_are_errors_and_limits_without_a_score(log: Path) -> None:
    broken, slow = sample(log, "p4"), sample(log, "p5")
    assert broken.error is not None
    assert broken.error.message == f"agent_error: ValueError: {HARD}"
    assert slow.limit is not None
    assert (slow.limit.type, slow.limit.limit, slow.error) == ("time", 1.5, None)
    assert not broken.scores
    assert not slow.scores


def test_an_agent_without_a_model_has_its_answer_as_output(log: Path) -> None:
    assert sample(log, "p3").output.completion == '{"sum":4}'
    assert len(sample(log, "p7").output.completion) == 10_000_000


def test_the_last_attempt_of_a_sample_counts(log: Path) -> None:
    assert sample(log, "p2", 4).uuid == "v2/p2/3~r1"


def test_no_name_in_the_zip_leads_out_of_a_folder(log: Path) -> None:
    names = zipfile.ZipFile(log).namelist()
    assert len(names) == len(set(names)) == len(SAMPLES) + 2
    assert not [each for each in names if ".." in each.split("/") or "\0" in each]
    assert any(each.uuid == "v2/../../6\0" for each in read_eval_log_sample_summaries(str(log)))


def test_their_data_frames_take_it(log: Path) -> None:
    assert len(evals_df(str(log))) == 1
    frame = samples_df(str(log))
    assert len(frame) == len(SAMPLES) - 1
    assert frame["score_reward"].notna().sum() == len(SAMPLES) - 3


def test_it_is_scored_again_by_their_command(log: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scored.eval"
    command = [sys.executable, "-m", "inspect_ai", "score", str(log), "--scorer", "includes"]
    options = ["--action", "append", "--output-file", str(copy), "--model", "mockllm/model"]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "INSPECT_DISPLAY": "plain", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_eval_log(str(copy))
    assert {"reward", "includes"} <= set(metrics(found))
    scored = read_eval_log_sample(str(copy), "p3", 1)
    assert scored.scores is not None
    assert scored.scores["includes"].value in {"C", "I"}


def test_what_others_have_written_is_a_sample_too(tmp_path: Path) -> None:
    odd: list[Any] = [
        {
            "records": [
                {"data": {"type": "llm", "messages": [{"role": 3, "content": [1, {"text": "a"}]}]}}
            ]
        },
        {
            "records": [{"data": {"tool_name": 5, "arguments": [1], "error": {"a": 1}}}],
            "timestamp": 1e300,
        },
        {
            "records": [
                {
                    "data": {
                        "type": "llm",
                        "response": "a",
                        "tool_calls": [{"name": None, "arguments": "{"}],
                    }
                }
            ]
        },
        {"records": [{"data": {"type": "own", "dropped": "too large"}}], "timestamp": "now"},
        7,
    ]
    numbers: dict[str, Any] = {
        "usage": {"input_tokens": "many", "usd": [1]},
        "rewards": {"a": "b", "c": 2**63},
    }
    fields: dict[str, Any] = {
        "trace": odd,
        "evaluation_results": [1, {"config": 2}],
        **numbers,
        "error": {"a": [1]},
    }
    strange = Result(task_id="v2/odd", run="v2", reward=2**63, outcome="melted", **fields)
    bare = Result(task_id="v2/bare", run="v2", metadata={"agentpipe": 5, "deep": {"n": 2**64 - 1}})
    path = exported(tmp_path, strange, bare)
    found = read_eval_log(str(path))
    assert {each.id for each in found.samples or []} == {"odd", "bare"}
    assert found.status == "success"
    json.loads(zipfile.ZipFile(path).read("summaries.json"))
