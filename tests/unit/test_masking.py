"""Text is masked before it is cut, so that no part of a secret remains at a cut."""

from __future__ import annotations

import ast
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

import agentpipe
from agentpipe.core import masking
from agentpipe.core.caps import STDERR_END_BYTES
from agentpipe.core.failures import MAX_ERROR_CHARS, error_record
from agentpipe.core.redaction import Redactor
from agentpipe.core.task import Task
from agentpipe.core.trace import MAX_RECORD_BYTES, Tracer
from agentpipe.core.usage import MAX_NAME_CHARS, Usage
from agentpipe.engines.process.agent import MAX_PRINTED_CHARS, _parts
from agentpipe.engines.process.pipes import read_end
from agentpipe.evaluation.evaluators import MAX_RESPONSE_CHARS, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "canary-0123456789-abcdefghij-9876543210"
PARTS = (SECRET[:12], SECRET[-12:])
PACKAGE = Path(agentpipe.__file__).parent


@pytest.fixture(autouse=True)
def installed() -> Redactor:
    return masking.install([SECRET])


def over(limit: int) -> str:
    """A text with the secret across its first ``limit`` characters, and across its last ones."""
    filler, space = "x" * (limit - len(SECRET) - 1), " " * (len(SECRET) + 1 - len(SECRET) // 2)
    text = f"{filler}{space}{SECRET}{space}{filler}"
    assert any(part in text[:limit] for part in PARTS)
    assert any(part in text[-limit:] for part in PARTS)
    return text


def of_span(_: int) -> str:
    tracer = Tracer()
    text = over(5_000) * (1 + MAX_RECORD_BYTES // 10_000)
    with tracer.root() as span:
        span.add({"response": text, "type": "x"})
    assert "characters in all" in str(tracer.spans)
    return str(tracer.spans)


def of_evaluation(limit: int) -> str:
    task = Task(question="q")
    config = {"func": "raw", "op": "=", "value": "y"}
    judged = asyncio.run(evaluate([config], over(limit), task))
    return str(judged)


def of_usage(limit: int) -> str:
    usage = Usage()
    usage.add({over(limit): 1})
    return str(usage.to_dict())


def of_error(limit: int) -> str:
    return str(error_record(ValueError(over(limit)), Redactor(())))


def of_stderr(limit: int) -> str:
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as end:
        end.write(over(limit).encode())
    return asyncio.run(read_end(ours))


def of_printed_line(limit: int) -> str:
    return "|".join(_parts(f"{over(limit)}\n".encode()))


PLACES: dict[Callable[[int], str], int] = {
    of_span: 0,
    of_evaluation: MAX_RESPONSE_CHARS,
    of_usage: MAX_NAME_CHARS,
    of_error: MAX_ERROR_CHARS,
    of_stderr: STDERR_END_BYTES,
    of_printed_line: MAX_PRINTED_CHARS,
    lambda limit: masking.shorten(over(limit), limit): 50,
    lambda limit: masking.shorten(over(limit), limit, keep_end=True): 50,
}


@pytest.mark.parametrize("place", PLACES)
def test_no_part_of_a_secret_is_left_where_a_text_is_cut(place: Callable[[int], str]) -> None:
    shown = place(PLACES[place])
    assert shown
    assert not any(part in shown for part in PARTS), shown[-200:]


def test_what_is_short_enough_stays_as_it_is_and_is_masked_where_it_leaves() -> None:
    assert masking.shorten(SECRET, len(SECRET)) == SECRET
    assert masking.masked(SECRET) == "***"
    assert masking.shorten("x" * 30, 10, " ...") == "x" * 10 + " ..."
    assert masking.shorten(f"{SECRET} is", 10) == "*** is"


# Modules besides core.masking that may cut text, and why.
ELSEWHERE = {
    "agentpipe.core.masking": "the door",
    "agentpipe.core.retry_after": "a header's time, of which a number is read",
    "agentpipe.core.json_values": "a place",
    "agentpipe.core.outside": "digits of a number",
    "agentpipe.core.result": "orjson's own words",
    "agentpipe.core.failure_digest": "only a digest leaves",
    "agentpipe.core.text": "for a terminal: lines of the program, and what is masked in the store",
    "agentpipe.core.did_you_mean": "keys of the collection",
    "agentpipe.brokers.statistics": "a settlement's reason, masked",
    "agentpipe.brokers.breaker": "a settlement's reason, masked",
    "agentpipe.brokers.redis.queue_rows": "masked before it was stored",
    "agentpipe.engines.mcp.jsonrpc": "more than an error shows",
    "agentpipe.engines.mcp.server_tools": "a number of names, each of them whole",
    "agentpipe.engines.mcp.errors": "more than an error shows",
    "agentpipe.engines.models.reading": "an id, and a value of the model's",
    "agentpipe.engines.mcpuniverse.host.llm": "more than the worker shows",
    "agentpipe.engines.mcpuniverse.host.failure": "more than the worker shows",
    "agentpipe.engines.mcpuniverse.host.evaluation": "more than the worker shows",
    "agentpipe.engines.process.agent": "parts of a masked line",
    "agentpipe.worker.outcomes.endings": "masked in the same function",
    "agentpipe.worker.claims.settling": "a masked settlement",
    "agentpipe.operations.dead_letters": "masked in the store",
    "agentpipe.cli.dead_text": "masked in the store",
    "agentpipe.core.sampling": "a sender's own words, to the sender",
    "agentpipe.core.trace": "an id of the program's own",
    "agentpipe.engines.llm.config": "a setting of the agent's owner",
    "agentpipe.engines.llm.tool_names": "a name that is sent to the model",
    "agentpipe.sinks.rabbitmq.topic": "a name at the command line",
    "agentpipe.tracing.attributes": "masked in the stream",
    "agentpipe.web.samples": "a search at the address",
    "agentpipe.web.task": "masked in the stream",
    "agentpipe.web.fleet": "a number of rows",
    "agentpipe.brokers.redis.address": "a part of a URL of the operator's",
    "agentpipe.brokers.dead_letter": "a page's key at the command line",
}
# These packages read what a user wrote in a file or on the command line.
OF_USERS = ("config", "cli", "settings", "sending", "connections", "operations", "compat", "tui")


def cuts(tree: ast.Module) -> Iterator[ast.Subscript]:
    """Slices whose bound is a large constant or is named like one."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
            continue
        bounds = [each for each in (node.slice.lower, node.slice.upper) if each is not None]
        numbers = [
            n.value for each in bounds for n in ast.walk(each) if isinstance(n, ast.Constant)
        ]
        words = " ".join(map(ast.unparse, bounds))
        named = any(end in words for end in ("CHARS", "TEXT", "SHOWN", "MAX_BODY", "max_chars"))
        if named or any(isinstance(number, int) and number >= 20 for number in numbers):
            yield node


def test_no_other_place_cuts_a_text_that_a_stranger_wrote() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if lines := [each.lineno for each in cuts(ast.parse(path.read_bytes()))]:
            found[name] = lines
    unknown = {
        name: lines
        for name, lines in found.items()
        if name not in ELSEWHERE and name.split(".")[1] not in OF_USERS
    }
    assert not unknown, f"cut with core.masking.shorten, or say here why not: {unknown}"
    assert found, "the test finds none any more"


def test_a_result_has_no_part_of_a_secret(installed: Redactor) -> None:
    assert not installed.occurs_in(orjson.dumps(of_span(0)))
