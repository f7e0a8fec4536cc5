"""Rollouts of a real model on vLLM: the recorded tokens are those that vLLM sampled."""

from __future__ import annotations

import sys
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from tests.rl.project_files import RlProject
from tests.rl.torch_model import logprobs_of, model_of
from tests.rl.vllm_server import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe import Result, RolloutGroup
    from agentpipe.rollouts import Sample
    from tests.rl.model_proxy import Exchange, ModelProxy


def by_class(**config: Any) -> dict[str, Any]:
    return {"type": "python", "config": {"class": "asking:Asks", **config}}


def by_program(*argv: str) -> dict[str, Any]:
    whole = [sys.executable, "{{ here }}/asking.py", *argv]
    return {"type": "command", "config": {"argv": whole}}


def by_us(**config: Any) -> dict[str, Any]:
    return {"type": "llm", "config": {"model": "local:small", **config}}


MESSAGES = {"record": {"tokens": "require"}}
TOKENS = {"record": {"tokens": "require", "mode": "tokens"}}
AGENTS = {
    "llm": {**by_us(), **MESSAGES},
    "llm-streamed": {**by_us(stream=True), **MESSAGES},
    "class": {**by_class(), **MESSAGES},
    "class-streamed": {**by_class(stream=True), **MESSAGES},
    "program": {**by_program(), **MESSAGES},
    "program-streamed": {**by_program("stream"), **MESSAGES},
    "class-by-tokens": {**by_class(), **TOKENS},
    "program-by-tokens": {**by_program("stream"), **TOKENS},
}
QUESTIONS = ("Name three rivers in Europe.", "Write a haiku about rain.")
SAMPLES = 2
JUDGED = [{"func": "raw", "op": "=", "value": "Yes."}]
SAMPLING = {"temperature": 1.0, "max_tokens": 16}
# Both compute in 32 bits, but add in a different order.
MAX_DIFFERENCE = 0.01


@pytest.fixture(scope="module")
def project(proxy: ModelProxy, tmp_path_factory: pytest.TempPathFactory) -> RlProject:
    """A project in which all agents ran at once, so vLLM batched many requests in each step."""
    found = RlProject(tmp_path_factory.mktemp("model"), proxy.url)
    found.write(AGENTS, concurrency=8)
    for name in AGENTS:
        tasks = [
            {"task_id": f"{name}-{n}", "question": it, "evaluators": JUDGED, "sampling": SAMPLING}
            for n, it in enumerate(QUESTIONS)
        ]
        found.send(name, tasks, SAMPLES)
    found.run("work", "--burst", "--processes", "1", "--slots", "64")
    assert not proxy.seen.failures
    return found


@pytest.fixture(scope="module")
def groups(project: RlProject) -> list[RolloutGroup]:
    return project.groups()


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(MODEL)


@pytest.mark.parametrize("name", AGENTS)
def test_every_sampled_id_is_the_engines_and_its_probability_the_models(
    groups: list[RolloutGroup], proxy: ModelProxy, model: Any, name: str
) -> None:
    """Checks against vLLM's answers, and against log-probabilities computed again in torch."""
    groups = [group for group in groups if group.results[0].collection == name]
    assert [(it.status, len(it.goods)) for it in groups] == [("complete", SAMPLES)] * len(QUESTIONS)
    results = [result for group in groups for result in group.results]
    exchanges = {it.key: it for it in proxy.seen.sampled}
    assert len(exchanges) == len(proxy.seen.sampled) == answers_of(AGENTS)
    compared = masked = answers = 0
    for result in results:
        kept, lost, number = compare_all(result, exchanges)
        compared, masked, answers = compared + kept, masked + lost, answers + number
    assert answers == answers_of([name])
    differences = differences_of(model, [row for group in groups for row in group.samples()])
    assert len(differences) == compared > 0
    assert masked == 0 or "tokens" not in name
    sys.stdout.write(
        f"{name}: {answers} answers, {compared} sampled ids compared, all the "
        f"engine's; {masked} overwritten by later prompts; log-probabilities differ by "
        f"{fmean(differences):.6f} on average, {max(differences):.6f} at most\n"
    )
    assert max(differences) <= MAX_DIFFERENCE


def answers_of(names: Iterable[str]) -> int:
    turns = [1 if name.startswith("llm") else 3 for name in names]
    return len(QUESTIONS) * SAMPLES * sum(turns)


def compare_all(result: Result, exchanges: dict[str, Exchange]) -> tuple[int, int, int]:
    """How many sampled ids the rollout has and lacks, and the number of answers."""
    assert result.rollout is not None
    asked = {span["id"]: span["records"][0]["data"] for span in result.trace}
    kept = lost = answers = 0
    for segment in result.rollout["segments"]:
        for turn in segment["turns"]:
            own = exchanges.pop(asked[turn["span"]]["response_id"])
            assert own.is_stream == ("streamed" in str(result.collection))
            here, gone = compare(segment, turn, own)
            kept, lost, answers = kept + here, lost + gone, answers + 1
    assert lost == result.rollout["masked"]
    return kept, lost, answers


def compare(segment: dict[str, Any], turn: dict[str, Any], own: Exchange) -> tuple[int, int]:
    """Compare a turn with vLLM's answer; return how many sampled ids it has and lacks.

    A later prompt can overwrite the end of an answer: those ids are missing.
    """
    at, ids, sampled = turn["at"], segment["token_ids"], own.choice["token_ids"]
    assert ids[:at] == own.prompt_ids
    place = next((n for n, (start, _) in enumerate(segment["sampled"]) if start == at), None)
    if place is None:
        return 0, len(sampled)
    kept = segment["sampled"][place][1] - at
    assert ids[at : at + kept] == sampled[:kept]
    before = sum(end - start for start, end in segment["sampled"][:place])
    said = [round(each["logprob"], 6) for each in own.choice["logprobs"]["content"]]
    assert segment["logprobs"][before : before + kept] == said[:kept]
    return kept, len(sampled) - kept


def differences_of(model: Any, rows: list[Sample]) -> list[float]:
    """The difference of each recorded log-probability from torch's with the same weights."""
    found: list[float] = []
    for row in rows:
        ours = zip(logprobs_of(model, row.input_ids), row.logprobs, row.loss_mask, strict=True)
        found += [abs(one - other) for one, other, mask in ours if mask]
    return found
