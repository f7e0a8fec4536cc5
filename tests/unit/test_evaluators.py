from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe.config.function_scope import FunctionScope
from agentpipe.core.context import Context
from agentpipe.core.task import Task
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.evaluation.evaluators import (
    MAX_RESPONSE_CHARS,
    Evaluation,
    are_brief,
    evaluate,
    reward,
    rewards,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAN = float("nan")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def judged(
    answer: Any, func: str, op: str = "", value: Any = None, search: FunctionScope | None = None
) -> Evaluation:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    config = {"func": func, "op": op, "value": value}
    return asyncio.run(evaluate([config], text, Task(question="why?"), search))[0]


def is_wrong(evaluation: Evaluation) -> bool:
    return not (evaluation.passed or evaluation.broken or evaluation.error) and bool(
        evaluation.reason
    )


def is_broken(evaluation: Evaluation) -> bool:
    return evaluation.broken and not evaluation.passed and bool(evaluation.error)


# Chains, as MCP-Universe runs them.


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}',
        ' \n{"a": 1}\n ',
        '```json\n{"a": 1}\n```',
        '```\n{"a": 1}\n```',
        '`{"a": 1}`',
        'json {"a": 1}',
    ],
)
def test_json_is_read_with_and_without_a_fence(answer: str) -> None:
    assert judged(answer, "json -> get(a)", "=", 1).passed


@pytest.mark.parametrize("answer", ["", "Thursday", 'Here: {"a": 1}', "{'a': 1}", "1" * 5000])
def test_an_answer_that_is_not_json_is_wrong(answer: str) -> None:
    evaluation = judged(answer, "json -> get(a)", "=", 1)
    assert is_wrong(evaluation)


def test_an_answer_nested_without_end_is_wrong() -> None:
    assert is_wrong(judged("[" * 100_000, "json", "=", 1))
    assert is_wrong(judged("[" * 900 + "]" * 900, "json", "=", 1))


def test_a_missing_key_gives_none_which_is_compared() -> None:
    assert judged({"a": 1}, "json -> get(b)", "=", None).passed
    assert is_wrong(judged({"a": 1}, "json -> get(b)", "=", 1))
    assert judged({"a": 1}, "json -> get(b)").passed


def test_every_leaf_after_foreach_must_satisfy() -> None:
    people = {"people": [{"age": 30}, {"age": 40}]}
    ages = "json -> get(people) -> foreach -> get(age)"
    assert judged(people, ages, ">=", 30).passed
    evaluation = judged(people, ages, ">", 30)
    assert is_wrong(evaluation)
    assert evaluation.reason == "30 does not satisfy: > 30"


def test_foreach_of_foreach_reaches_each_item() -> None:
    assert judged([[1, 2], [3]], "json -> foreach -> foreach", "<", 4).passed
    assert judged([[1, 2], [3, 4]], "json -> foreach -> len", "=", 2).passed


def test_foreach_of_nothing_passes() -> None:
    assert judged([], "json -> foreach", "=", 1).passed


def test_len_list_and_raw() -> None:
    assert judged([1, 2, 3], "json -> len", "=", 3).passed
    assert judged("yes", "list", "=", ["yes"]).passed
    assert judged("yes", "raw", "=", "yes").passed
    assert judged("5", "raw -> json", "=", 5).passed


def test_spaces_empty_steps_and_further_arguments_do_no_harm() -> None:
    assert judged({"a": {"b c": 1}}, "json->get( a )  -> -> get(b c) ->", "=", 1).passed
    assert judged({"a": 1}, "json() -> get(a, b)", "=", 1).passed
    assert judged("as it is", "", "=", "as it is").passed


@pytest.mark.parametrize(
    ("answer", "func"),
    [
        ([1], "json -> get(a)"),
        ({"a": 1}, "json -> get(a) -> get(b)"),
        ({"a": 1}, "json -> get(a) -> len"),
        ({"a": "text"}, "json -> get(a) -> len"),
        ({"a": {}}, "json -> get(a) -> foreach"),
        ({"a": 1}, "json -> json"),
        ([{"a": 1}, 2], "json -> foreach -> get(a)"),
    ],
)
def test_an_answer_of_another_shape_is_wrong(answer: Any, func: str) -> None:
    assert is_wrong(judged(answer, func))


# Comparisons.


@pytest.mark.parametrize(
    ("leaf", "op", "value"),
    [
        (1, "=", 1.0),
        (True, "=", 1),
        ([1, {"a": None}], "=", [1, {"a": None}]),
        (1, "<", 2),
        (2, "<=", 2),
        ("b", ">", "a"),
        (True, ">=", 1),
        (1e999, ">", 10**300),
        ("a", "in", ["a", "b"]),
        ("a", "in", "cat"),
        ([1], "in", [[1], {}]),
        ([1, 2], "contain", 2),
        ([{}], "contain", {}),
        ("cat", "contain", "a"),
    ],
)
def test_comparisons_that_hold(leaf: Any, op: str, value: Any) -> None:
    assert judged(json.dumps(leaf), "json", op, value).passed


@pytest.mark.parametrize(
    ("leaf", "op", "value"),
    [
        ("1", "=", 1),
        (NAN, "=", 1),
        (NAN, "<", 1),
        (NAN, ">=", 1),
        ("1", "<", 2),
        (None, "<", 2),
        ({}, ">", "a"),
        ([1], ">", 1),
        (1, "in", "123"),
        ([1], "in", "123"),
        (3, "in", [1, 2]),
        (5, "contain", 5),
        ({"a": 1}, "contain", "a"),
        (None, "contain", None),
        ("5", "contain", 5),
    ],
)
def test_comparisons_that_the_answer_fails(leaf: Any, op: str, value: Any) -> None:
    assert is_wrong(judged(json.dumps(leaf), "json", op, value))


@pytest.mark.parametrize(
    ("op", "value"),
    [
        ("in", 5),
        ("in", None),
        ("in", {"a": 1}),
        ("<", None),
        (">", {}),
        ("<=", [1]),
        (">=", NAN),
        ("=", NAN),
        ("==", 1),
        ("github.check_repositories", 1),
        ("jcodemunch.llm_as_a_judge", 1),
    ],
)
def test_an_op_that_could_never_hold_is_broken_and_found_beforehand(op: str, value: Any) -> None:
    assert is_broken(judged(1, "json", op, value))
    assert len(evaluator_problems([{"func": "json", "op": op, "value": value}])) == 1


@pytest.mark.parametrize(
    "func",
    ["jsn", "get", "json -> get", "json -> get(a", "json get(a)", "get(a) get(b)", "json -> a:b"],
)
def test_a_malformed_chain_is_broken_whatever_the_answer(func: str) -> None:
    assert is_broken(judged("not json", func, "=", 1))
    assert len(evaluator_problems([{"func": func}])) == 1


# Configs.


def test_a_sound_evaluator_has_no_problems() -> None:
    whole = {"func": "json", "op": "=", "value": 1, "op_args": None, "desc": "d", "weight": 2}
    assert (
        evaluator_problems([whole, {"func": "my_checks:not_imported"}, {"func": "a/b.py:f"}]) == []
    )


def test_check_names_the_place_and_the_nearest_name() -> None:
    assert evaluator_problems([{"func": "json"}, {"func": "jso -> len"}]) == [
        "evaluators[1]: func: unknown function 'jso': did you mean 'json'?"
    ]
    assert evaluator_problems([{"func": "json", "valeu": 1}]) == [
        "evaluators[0]: unknown key 'valeu': did you mean 'value'?"
    ]


def test_check_lists_the_ops_and_names_the_nearest_of_mcp_universe() -> None:
    (unknown,) = evaluator_problems([{"func": "json", "op": "=="}])
    assert "choose from = < <= > >= in contain" in unknown
    (domain,) = evaluator_problems([{"func": "json", "op": "github.check_repo"}])
    assert "is not in mcpuniverse 1.1.3: did you mean 'github.check_repository'" in domain


@pytest.mark.parametrize("op", ["github.check_repository", "postgres_security_verifier"])
def test_an_op_of_mcp_universe_is_accepted_and_judged_by_its_own_engine_only(op: str) -> None:
    assert evaluator_problems([{"func": "raw", "op": op, "value": {"any": "thing"}}]) == []
    evaluation = judged("whatever", "raw", op, {"any": "thing"})
    assert is_broken(evaluation)
    expected = f"op {op} needs MCP-Universe's code: run the collection with engine: mcpuniverse"
    assert evaluation.error == expected


def test_an_op_of_mcp_universe_cannot_judge_what_a_function_returns() -> None:
    (problem,) = evaluator_problems([{"func": "mine:f", "op": "github.check_repository"}])
    assert "compares the result of a chain" in problem


# Templates.


def rendered(answer: str, env: dict[str, str], **config: Any) -> Evaluation:
    text = json.dumps(answer)
    return asyncio.run(evaluate([{"func": "json", **config}], text, Task(), None, Context(env)))[0]


def test_a_template_is_compared_by_the_contexts_value_and_recorded_as_it_is_written() -> None:
    config = {"op": "=", "value": "{{ OWNER }}/{{NAME}}"}
    assert evaluator_problems([{"func": "json", **config}]) == []
    env = {"OWNER": "a-secret", "NAME": "repo"}
    passed, failed = rendered("a-secret/repo", env, **config), rendered("else", env, **config)
    assert passed.passed
    assert is_wrong(failed)
    assert "a-secret" not in str(failed)
    assert passed.config["value"] == failed.config["value"] == "{{ OWNER }}/{{NAME}}"
    assert rendered("{{ OWNER }}/repo", {"NAME": "repo"}, **config).passed


def test_a_function_gets_its_arguments_rendered(tmp_path: Path) -> None:
    (tmp_path / "arguments.py").write_text(
        "def f(answer, value, op_args):\n    return [value, op_args] == ['x', {'who': ['y']}]\n"
    )
    config = {"func": "arguments:f", "value": "{{ X }}", "op_args": {"who": ["{{ Y }}"]}}
    env = {"X": "x", "Y": "y"}
    (evaluation,) = asyncio.run(
        evaluate([config], "", Task(), FunctionScope(tmp_path), Context(env))
    )
    assert evaluation.passed, evaluation
    assert evaluation.config["op_args"] == {"who": ["{{ Y }}"]}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"op": "="},
        {"func": None},
        {"func": ["json"]},
        {"func": "json", "op": ["="]},
        {"func": "json", "op": None},
        {"func": "json", "desc": {}},
        {"func": "a b:c"},
        {"func": "json", "valeu": 1},
        "json",
    ],
)
def test_a_malformed_evaluator_is_a_problem_and_broken(config: Any) -> None:
    assert evaluator_problems([config])
    (evaluation,) = asyncio.run(evaluate([config], "1", Task()))
    assert is_broken(evaluation)


def test_check_reads_functions_only_where_it_knows_the_folders(tmp_path: Path) -> None:
    functions(tmp_path, "def good(answer): return True\nword = 'no function'")
    assert evaluator_problems([{"func": "checks:good"}], FunctionScope(tmp_path)) == []
    (missing,) = evaluator_problems([{"func": "checks:god"}], FunctionScope(tmp_path))
    assert "did you mean 'good'?" in missing
    assert (
        "is not a function"
        in evaluator_problems([{"func": "checks:word"}], FunctionScope(tmp_path))[0]
    )


# The user's own functions.


def functions(folder: Path, source: str) -> FunctionScope:
    (folder / "checks.py").write_text(source)
    return FunctionScope(folder)


@pytest.mark.parametrize(
    "source",
    [
        "def f(answer): return answer == 'yes'",
        "async def f(answer): return answer == 'yes'",
        "def f(answer): return answer == 'yes', 'say yes'",
        "def f(answer): return {'passed': answer == 'yes', 'reason': 'say yes'}",
        "def f(answer): return {'passed': answer == 'yes'}",
        "def f(value): return value == 'yes'",
        "class C:\n    async def __call__(self, answer): return answer == 'yes'\nf = C()",
    ],
)
def test_a_function_gives_its_verdict(tmp_path: Path, source: str) -> None:
    search = functions(tmp_path, source)
    assert judged("yes", "checks:f", search=search).passed
    evaluation = judged("no", "checks:f", search=search)
    assert is_wrong(evaluation)
    assert evaluation.reason in {"say yes", "checks:f returned false"}


def test_a_function_is_found_by_its_files_path_too(tmp_path: Path) -> None:
    functions(tmp_path, "def f(answer): return True")
    assert judged("yes", "checks.py:f", search=FunctionScope(tmp_path)).passed


def test_a_function_gets_what_its_parameters_name(tmp_path: Path) -> None:
    source = "def f(answer, task, *, value, other=1): return (answer, task.question, value, other)"
    functions(tmp_path, f"{source} == ('yes', 'why?', [2], 1)")
    assert judged("yes", "checks:f", value=[2], search=FunctionScope(tmp_path)).passed


def test_op_compares_what_a_function_returns(tmp_path: Path) -> None:
    search = functions(tmp_path, "def f(answer): return len(answer)")
    assert judged("yes", "checks:f", "=", 3, search).passed
    assert is_wrong(judged("no", "checks:f", "=", 3, search))
    assert is_wrong(judged("no", "checks:f", "<", "text", search))


def test_a_plain_function_runs_beside_the_loop(tmp_path: Path) -> None:
    search = functions(
        tmp_path, "import threading\ndef f(answer): return threading.current_thread().name"
    )
    assert is_wrong(judged("", "checks:f", "=", threading.current_thread().name, search))


@pytest.mark.parametrize(
    "source",
    [
        "def f(answer): raise ValueError('bad')",
        "async def f(answer): raise ValueError('bad')",
        "def f(answer): raise SystemExit(1)",
        "async def f(answer): raise SystemExit(1)",
        "def f(answer): raise KeyboardInterrupt",
        "async def f(answer): raise KeyboardInterrupt",
        "async def f(answer): raise BaseException('base')",
        "def f(answer): raise StopIteration",
        "import asyncio\ndef f(answer): raise asyncio.CancelledError",
        "import asyncio\nasync def f(answer): raise asyncio.CancelledError",
        "class E(Exception):\n    def __str__(self): raise self\ndef f(answer): raise E",
        "def f(): return True",
        "def f(answer, more): return True",
        "def f(answer): return None",
        "def f(answer): return 1",
        "def f(answer): return 'yes'",
        "def f(answer): return [True, 'reason']",
        "def f(answer): return (True, 5)",
        "def f(answer): return (True, 'a', 'b')",
        "def f(answer): return {'passed': 1}",
        "def f(answer): return {'ok': True}",
        "class C:\n    def __repr__(self): raise OSError\ndef f(answer): return C()",
        "f = 5",
        "g = 5",
        "raise OSError('at import')",
        "def f(:",
    ],
)
def test_a_function_that_fails_is_broken(tmp_path: Path, source: str) -> None:
    evaluation = judged("yes", "checks:f", search=functions(tmp_path, source))
    assert is_broken(evaluation)
    orjson.dumps(evaluation.to_dict())


@pytest.mark.parametrize(
    "returned", ["object()", "{1}", "C()", "[C()]", "type('D', (dict,), {'__lt__': C.__eq__})()"]
)
@pytest.mark.parametrize("error", ["OSError", "SystemExit", "KeyboardInterrupt"])
def test_a_function_whose_return_cannot_be_compared_is_broken(
    tmp_path: Path, returned: str, error: str
) -> None:
    hostile = f"class C:\n    def __eq__(self, other): raise {error}\n"
    source = f"{hostile}def f(answer): return {returned}"
    op, value = ("<", 1) if "C()]" not in returned else ("=", [1])
    assert is_broken(judged("yes", "checks:f", op, value, functions(tmp_path, source)))


def test_a_functions_error_says_where_it_was_raised(tmp_path: Path) -> None:
    source = "import json\ndef f(answer):\n    return json.loads(answer)"
    evaluation = judged("no json", "checks:f", search=functions(tmp_path, source))
    assert evaluation.error.startswith("checks:f raised JSONDecodeError: Expecting value")
    assert evaluation.error.endswith(f"(at {tmp_path / 'checks.py'}:3)")


def test_a_function_that_is_nowhere_is_broken(tmp_path: Path) -> None:
    assert is_broken(judged("yes", "not_there:f", search=FunctionScope(tmp_path)))


def test_a_cancellation_from_outside_goes_through(tmp_path: Path) -> None:
    source = "import asyncio\nasync def f(answer, task):\n    task.metadata['in'].set()\n"
    search = functions(tmp_path, f"{source}    await asyncio.Event().wait()")

    async def cancelled() -> None:
        entered = asyncio.Event()
        task = Task(metadata={"in": entered})
        run = asyncio.create_task(evaluate([{"func": "checks:f"}], "", task, search))
        await entered.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(cancelled())


# Evaluations.


def test_an_evaluation_has_the_five_keys_and_the_defaults() -> None:
    evaluation = judged("5", "json")
    assert evaluation.to_dict() == {
        "config": {"func": "json", "op": "", "value": None, "op_args": None, "desc": ""},
        "response": "5",
        "passed": True,
        "reason": "",
        "error": "",
    }


def test_a_long_answer_is_judged_whole_and_kept_in_part() -> None:
    evaluation = judged("x" * MAX_RESPONSE_CHARS + "y", "raw", "contain", "y")
    assert evaluation.passed
    assert evaluation.response.endswith("x... (cut, 100,001 characters in all)")
    assert judged("x" * MAX_RESPONSE_CHARS, "raw").response == "x" * MAX_RESPONSE_CHARS


def test_a_reason_is_short_and_can_be_written_as_json() -> None:
    evaluation = judged(["\ud800" * 5000] * 50, "json -> foreach", "=", "a")
    assert len(evaluation.reason) < 2000
    orjson.dumps(evaluation.to_dict())


def test_each_evaluator_is_judged_by_itself() -> None:
    configs = [{"func": "json", "op": "=", "value": value} for value in (1, 2)]
    configs.append({"func": "nonsense"})
    evaluations = asyncio.run(evaluate(configs, "1", Task()))
    assert [(e.passed, e.broken) for e in evaluations] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_the_reward_is_the_mean_of_passed() -> None:
    right, wrong = Evaluation({}, "", passed=True), Evaluation({}, "", passed=False)
    assert reward([right, wrong, wrong, wrong]) == 0.25
    assert reward([right]) == 1.0
    assert reward([]) is None


# Scores, names and weights.

# numpy's classes as in numpy 1 and 2, without numpy.
NUMPY = """
class generic: pass
class bool_(generic):
    def __init__(self, value): self.value = value
    def __bool__(self): return self.value
class bool2(bool_): pass
class floating(generic): pass
class float64(floating, float): pass
class float32(floating):
    def __init__(self, value): self.value = value
    def __float__(self): return self.value
class ndarray(generic): pass
bool2.__name__ = "bool"
for kind in (generic, bool_, bool2, floating, float64, float32, ndarray):
    kind.__module__ = "numpy"
"""


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("0.25", (False, 0.25, "the score is 0.25")),
        ("0.0", (False, 0.0, "the score is 0")),
        ("1.0", (True, 1.0, "")),
        ("1.0000000000000002", (True, 1.0, "")),
        ("-1e-17", (False, 0.0, "the score is 0")),
        ("(0.5, 'half')", (False, 0.5, "half")),
        ("(1.0, 'whole')", (True, 1.0, "whole")),
        ("{'score': 0.5}", (False, 0.5, "the score is 0.5")),
        ("{'score': 1}", (True, 1.0, "")),
        ("{'score': 0, 'reason': 'none'}", (False, 0.0, "none")),
        ("{'score': 0.8, 'passed': True}", (True, 0.8, "")),
        ("{'score': 1.0, 'passed': False}", (False, 1.0, "the score is 1")),
        ("float64(0.5)", (False, 0.5, "the score is 0.5")),
        ("float32(1.0)", (True, 1.0, "")),
        ("(float64(0.5), 'half')", (False, 0.5, "half")),
        ("{'score': float32(0.5)}", (False, 0.5, "the score is 0.5")),
        ("bool_(True)", (True, None, "")),
        ("bool2(True)", (True, None, "")),
        ("bool_(False)", (False, None, "checks:f returned false")),
        ("(bool_(False), 'no')", (False, None, "no")),
        ("{'passed': bool2(True)}", (True, None, "")),
    ],
)
def test_a_function_grades_an_answer(
    tmp_path: Path, returned: str, expected: tuple[bool, float | None, str]
) -> None:
    source = f"{NUMPY}\ndef f(answer): return {returned}"
    evaluation = judged("yes", "checks:f", search=functions(tmp_path, source))
    assert not evaluation.broken, evaluation.error
    assert (evaluation.passed, evaluation.score, evaluation.reason) == expected
    record = json.loads(orjson.dumps(evaluation.to_dict()))
    assert record.get("score") == evaluation.score


@pytest.mark.parametrize(
    "returned",
    [
        "float('nan')",
        "float('inf')",
        "1.1",
        "-0.1",
        "float64('nan')",
        "1",
        "ndarray()",
        "'0.5'",
        "{'score': True}",
        "{'score': '0.5'}",
        "{'score': float('nan')}",
        "{'score': 2}",
        "{'score': 0.5, 'passed': 1}",
        "{'score': 0.5, 'reason': 1}",
        "{'passed': True, 'score': 'high'}",
        "(0.5, 1)",
        "(0.5, 'a', 'b')",
        "{}",
    ],
)
def test_a_score_that_is_none_is_a_broken_evaluator(tmp_path: Path, returned: str) -> None:
    source = f"{NUMPY}\ndef f(answer): return {returned}"
    evaluation = judged("yes", "checks:f", search=functions(tmp_path, source))
    assert is_broken(evaluation)
    assert "checks:f returned" in evaluation.error
    assert "from 0 to 1" in evaluation.error


def test_a_numpy_scalar_compares_with_op(tmp_path: Path) -> None:
    search = functions(tmp_path, f"{NUMPY}\ndef f(answer): return float64(len(answer))")
    assert judged("yes", "checks:f", "=", 3, search).passed


def graded(value: float, **config: Any) -> Evaluation:
    return Evaluation(config, "", passed=value == 1, score=value)


def test_the_reward_is_the_mean_by_weight() -> None:
    assert reward([graded(0.5), graded(1.0)]) == 0.75
    assert reward([graded(0.5, weight=3), Evaluation({}, "", passed=True)]) == 0.625
    huge = sys.float_info.max
    assert reward([graded(0.5, weight=huge), graded(0.5, weight=huge)]) == 0.5
    assert reward([graded(1.0, weight=10**300), graded(0.0, weight=1e-300)]) == 1.0


def test_rewards_hold_what_has_a_name() -> None:
    named = Evaluation({"name": "format"}, "", passed=True)
    assert rewards([graded(0.5, name="style"), named, graded(0.1)]) == {"style": 0.5, "format": 1}


def test_a_name_and_a_weight_are_recorded_with_the_evaluator() -> None:
    config = {"func": "raw", "name": "all", "weight": 2}
    (evaluation,) = asyncio.run(evaluate([config], "5", Task()))
    assert (evaluation.config["name"], evaluation.config["weight"]) == ("all", 2)


@pytest.mark.parametrize(
    "config",
    [
        {"name": ""},
        {"name": " "},
        {"name": 5},
        {"name": None},
        {"weight": 0},
        {"weight": -1},
        {"weight": NAN},
        {"weight": float("inf")},
        {"weight": 10**400},
        {"weight": "2"},
        {"weight": True},
        {"weight": None},
        {"wieght": 1},
    ],
)
def test_a_wrong_name_or_weight_is_found_when_sent(config: dict[str, Any]) -> None:
    (problem,) = evaluator_problems([{"func": "raw", **config}])
    assert next(iter(config)) in problem
    (evaluation,) = asyncio.run(evaluate([{"func": "raw", **config}], "1", Task()))
    assert is_broken(evaluation)


def test_names_that_clash_are_found_when_sent() -> None:
    twice = [{"func": "raw", "name": "a"}, {"func": "raw"}, {"func": "json", "name": "a"}]
    assert evaluator_problems(twice) == [
        "evaluators[2]: name: 'a' is also that of evaluators[0]: choose another"
    ]
    assert evaluator_problems([{"func": "raw", "name": "a"}, {"func": "raw", "name": "b"}]) == []


# Failures of services that evaluators need.


SERVICES = [
    "ConnectionError('away')",
    "TimeoutError()",
    "__import__('agentpipe').InfraError('away')",
    "__import__('urllib.error').error.URLError('away')",
]


@pytest.mark.parametrize("head", ["def", "async def"])
@pytest.mark.parametrize("raised", [*SERVICES, "ValueError('bad')", "KeyError('x')", "OSError()"])
def test_a_failing_service_is_told_from_a_broken_function(
    tmp_path: Path, raised: str, head: str
) -> None:
    search = functions(tmp_path, f"{head} f(answer): raise {raised}")
    evaluation = judged("yes", "checks:f", search=search)
    assert is_broken(evaluation)
    assert (evaluation.cause is not None) == (raised in SERVICES)
    orjson.dumps(evaluation.to_dict())


# Limits.


def test_a_long_chain_leaves_the_loop_to_others() -> None:
    """Even the largest allowed task lets the event loop run."""
    chain = "json -> foreach" + " -> raw" * 90
    config = {"func": chain, "op": "in", "value": [5] * 1_000}
    turns = 0

    async def judge() -> None:
        nonlocal turns
        judging = asyncio.ensure_future(evaluate([config], json.dumps([5] * 50_000), Task()))
        while not judging.done():
            turns += 1
            await asyncio.sleep(0)
        assert judging.result()[0].passed

    asyncio.run(judge())
    assert turns > 10


def test_many_evaluators_leave_the_loop_to_others() -> None:
    evaluations: list[Evaluation] = []
    turns = 0

    async def judge() -> None:
        nonlocal turns
        judging = asyncio.ensure_future(evaluate([{"func": "raw"}] * 1_000, "x", Task()))
        while not judging.done():
            turns += 1
            await asyncio.sleep(0)
        evaluations.extend(judging.result())

    asyncio.run(judge())
    assert all(each.passed for each in evaluations)
    assert turns > 900


@pytest.mark.parametrize(
    ("evaluators", "said"),
    [
        ([{"func": "raw" + " -> raw" * 200_000}], "200,001 steps: at most 100"),
        ([{"func": "raw"}] * 1_001, "1,001 of them, at most 1,000"),
        ([{"func": "raw", **{f"vale{n}": n for n in range(100_000)}}], "100,001 keys: at most 50"),
    ],
)
def test_what_goes_beyond_the_bounds_is_found_when_sent(
    evaluators: list[dict[str, Any]], said: str
) -> None:
    (problem,) = evaluator_problems(evaluators)
    assert said in problem
    if len(evaluators) == 1:
        assert is_broken(asyncio.run(evaluate(evaluators, "x", Task()))[0])


CHAIN = {"func": "raw", "op": "=", "value": "42"}


@pytest.mark.parametrize(
    ("evaluators", "answer", "expected"),
    [
        ([], "42", True),
        ([CHAIN] * 4, "42", True),
        ([CHAIN] * 5, "42", False),
        ([CHAIN], "4" * 200_001, False),
        ([{**CHAIN, "value": ["42"] * 1_000}], "4" * 1_000, False),
        ([CHAIN, {"func": "marks:mark"}], "42", False),
        ([{"func": 1}], "42", False),
        (["raw"], "42", False),
    ],
)
def test_few_chains_over_a_short_answer_need_no_limit_of_time(
    evaluators: list[Any], answer: str, *, expected: bool
) -> None:
    assert are_brief(evaluators, answer) is expected
