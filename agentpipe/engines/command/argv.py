"""A command's arguments, with placeholders for a task's plain fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentpipe.core.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.core.task import Task

FIELDS = (
    "question",
    "task_id",
    "category",
    "seed",
    "group_id",
    "sample_index",
    "group_size",
    "policy_version",
)
# The config's folder: the program's working directory is a different one.
HERE = "here"
_METADATA = "metadata."
# Anyone who knows a run's URL can ask its model, so it must not appear in arguments.
_URL = "base_url"
_PLACEHOLDER = re.compile(r"\{\{\s*(?P<name>[^{}\s]+)\s*\}\}")
_INTERPRETER = re.compile(
    r"(?:.*/)?(?:(?:ba|da|k|z|fi)?sh|(?:python|pypy|perl|ruby)[\d.]*|node|deno|bun|Rscript)"
)
# Options followed by code, in the next argument or the same one. The options below take a value.
_CODE_OPTION = re.compile(r"-[A-Za-z]*[ceEp]|--(?:eval|command|print)")
_VALUE_OPTIONS = frozenset(("-o", "+o", "-O", "-X", "-W", "-I", "-r", "--require", "--import"))


def filled(argv: Sequence[str], task: Task, here: str) -> list[str]:
    """``argv`` for this task; a missing value becomes an empty string."""

    def replacement(match: re.Match[str]) -> str:
        value = here if match["name"] == HERE else _value(task, match["name"])
        return "" if value is None else str(value)

    return [_PLACEHOLDER.sub(replacement, argument) for argument in argv]


def argv_problems(argv: Any) -> list[str]:
    """Problems of a command line, one sentence each."""
    strings = isinstance(argv, list) and argv and all(isinstance(part, str) for part in argv)
    if not strings or not argv[0]:
        return ['argv: expected the program and its arguments: argv: [sh, "{{ here }}/answer.sh"]']
    if any("\0" in part for part in argv):
        return ["argv: contains a NUL character: remove it"]
    if _PLACEHOLDER.search(argv[0]):
        return ["argv: the program itself cannot be a placeholder: name it"]
    names = [match["name"] for part in argv for match in _PLACEHOLDER.finditer(part)]
    wrong = [problem for name in names if (problem := _name_problem(name))]
    return wrong or _code_problems(argv)


def _code_problems(argv: Sequence[str]) -> list[str]:
    """Arguments that would make an interpreter run a task's text as code."""
    return [
        f"argv: {argument!r:.60} is code for an interpreter, and a task would write it: "
        'give it an argument of its own: [sh, -c, "echo $1", sh, "{{ question }}"]'
        for argument in _code_in(argv)
        if {match["name"] for match in _PLACEHOLDER.finditer(argument)} - {HERE}
    ]


def _code_in(argv: Sequence[str]) -> Iterator[str]:
    """The arguments that the first interpreter runs; later ones belong to its script."""
    starts = [index for index, part in enumerate(argv) if _INTERPRETER.fullmatch(part)]
    before = ""
    for argument in argv[starts[0] + 1 :] if starts else ():
        option = argument.partition("{{")[0].rstrip("= ")
        if _CODE_OPTION.fullmatch(before):
            yield argument
            return
        if _CODE_OPTION.fullmatch(option) and option != argument:
            yield argument
        if argument[:1] not in {"-", "+"} and before not in _VALUE_OPTIONS:
            return
        before = argument


def _value(task: Task, name: str) -> Any:
    if name.startswith(_METADATA):
        return task.metadata.get(name.removeprefix(_METADATA))
    return getattr(task, name)


def _name_problem(name: str) -> str:
    if name in (*FIELDS, HERE) or name.startswith(_METADATA):
        return ""
    if name == _URL:
        return (
            "argv: {{ base_url }} would show the run's URL to every user of the machine: the "
            "program has it as OPENAI_BASE_URL and ANTHROPIC_BASE_URL"
        )
    return (
        f"argv: {{{{ {name} }}}} is not a field of a task: {did_you_mean(name, (*FIELDS, HERE))} "
        "(the context's values are in the program's environment)"
    )
