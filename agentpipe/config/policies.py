"""The policies of a collection file, and which collection uses which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.config.documents import problem_at, read_documents
from agentpipe.config.schema import POLICY, PolicyDocument
from agentpipe.config.yaml_source import kind_in
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.policy import PolicySpec
from agentpipe.core.rollout import OFF, TRY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agentpipe.config.yaml_source import Document
    from agentpipe.errors import Problem


def is_policy(document: Document) -> bool:
    """Whether a document declares a policy."""
    return kind_in(document) == POLICY


def read_policies(path: Path) -> tuple[dict[str, PolicySpec | None], list[Problem]]:
    """Return the policies of a file by name, None for an invalid one, and every problem."""
    checked, problems = read_documents(path, PolicyDocument(), is_policy)
    wrong = {problem.line for problem in problems}
    found = {
        spec["name"]: None if _has(document, wrong) else PolicySpec(**spec)
        for document, spec in checked
        if "name" in spec
    }
    return found, problems


def _has(document: Document, lines: set[int]) -> bool:
    """Whether one of these lines is in the document."""
    return not lines.isdisjoint({document.line, *document.lines.values()})


def policy_of(
    document: Document,
    spec: Mapping[str, Any],
    policies: Mapping[str, PolicySpec | None],
    problems: list[Problem],
) -> PolicySpec | None:
    """Return the policy that a collection names; None without one."""
    name = spec.get("policy")
    if name is None:
        return None
    place = ("spec", "policy")
    if name not in policies:
        hint = did_you_mean(name, sorted(policies), "add a document `kind: policy` to this file")
        problems.append(problem_at(document, place, f"unknown policy {name!r}: {hint}"))
    elif tokens_of(spec) == OFF:
        text = "its versions are in the record: remove `record: {tokens: off}`"
        problems.append(problem_at(document, place, text))
    return policies.get(str(name))


def tokens_of(spec: Mapping[str, Any]) -> str:
    """Return whether token ids are recorded; the default is ``try`` with a policy, else ``off``."""
    usual = TRY if spec.get("policy") is not None else OFF
    return str(spec.get("record", {}).get("tokens", usual))
