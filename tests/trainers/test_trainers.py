"""The recipes with classes of the trainers' packages, without the packages' dependencies.

Importing the packages needs Ray, vLLM and GPUs, so each class is taken out of its file and run
alone. A field that is renamed, newly required, or of another type fails here.
"""

from __future__ import annotations

import ast
import dataclasses
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Optional

import pydantic

from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.token_rows import Turn
from agentpipe.rollouts import samples
from docs.examples import trainers


def result() -> Result:
    """A Result with two rows."""
    rollout = Rollout()
    for turn in (Turn([1, 2], [3, 4], [-0.5, -0.25]), Turn([8], [6], [-2])):
        rollout.add(turn, engine="vllm", model="m", version=7)
    return Result(
        task_id="t", group_id="g", sample_index=3, reward=1.0, rollout=rollout.to_dict("stop")
    )


def tree(package: str, file: str) -> ast.Module:
    """The syntax tree of a package's file, which is not imported."""
    return ast.parse((Path(sys.prefix) / "packages" / package / file).read_text())


def taken(module: ast.Module, *names: str, **known: Any) -> dict[str, Any]:
    """These classes and functions of a module, defined with only the ``known`` names."""
    wanted = [each for each in module.body if getattr(each, "name", None) in names]
    assert {getattr(each, "name", "") for each in wanted} == set(names)
    scope: dict[str, Any] = {"__name__": __name__, **known}
    exec(compile(ast.Module(wanted, []), "taken", "exec"), scope)
    return scope


def test_verl_takes_its_output() -> None:
    module = tree("verl", "experimental/agent_loop/agent_loop.py")
    typing = {
        "BaseModel": pydantic.BaseModel,
        "Any": Any,
        "Optional": Optional,
    }
    scope = taken(module, "AgentLoopMetrics", "AgentLoopOutput", **typing)
    output, metrics = scope["AgentLoopOutput"], scope["AgentLoopMetrics"]
    output.model_rebuild(_types_namespace=scope)
    for sample in samples(result()):
        fields = trainers.verl_output(sample)
        assert fields.keys() <= output.model_fields.keys()
        made = output(**fields, metrics=metrics())
        assert made.model_dump(include=set(fields)) == fields
        assert len(made.response_ids) == len(made.response_mask) == len(made.response_logprobs)


def test_skyrl_takes_its_output() -> None:
    base = tree("skyrl", "train/generators/base.py")
    (declared,) = [each for each in base.body if getattr(each, "name", "") == "GeneratorOutput"]
    assert isinstance(declared, ast.ClassDef)
    fields = [each for each in declared.body if isinstance(each, ast.AnnAssign)]
    trajectory = taken(base, "TrajectoryID", dataclass=dataclasses.dataclass)
    given = trainers.skyrl_output(samples(result()), trajectory["TrajectoryID"])
    assert given.keys() == {ast.unparse(each.target) for each in fields}
    judges = taken(
        tree("skyrl", "train/utils/trainer_utils.py"),
        "validate_generator_output",
        "_validate_step_wise_fields",
        np=import_module("numpy"),
        GeneratorOutput=dict,
        logger=logging.getLogger("skyrl"),
    )
    judges["validate_generator_output"](1, given, step_wise=True)
    one = trainers.skyrl_output(samples(result())[:1], trajectory["TrajectoryID"])
    judges["validate_generator_output"](1, one)


def test_areal_takes_its_rows() -> None:
    """AReaL's trainer takes rows with the fields that its own multi-turn workflow returns."""
    calls = filter(is_dict, ast.walk(tree("areal", "workflow/multi_turn.py")))
    (names,) = [names for names in map(names_of, calls) if "versions" in names]
    for row in trainers.areal_rows(result()):
        assert row.keys() == names


def is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "dict"


def names_of(call: Any) -> set[str | None]:
    return {each.arg for each in call.keywords}
