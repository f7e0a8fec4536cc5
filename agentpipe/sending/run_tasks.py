"""A run's tasks, and parts of a file: the same ids each time a file is sent."""

from __future__ import annotations

import hashlib
import heapq
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.core.run_plan import RunPlan
    from agentpipe.sending.admission import AdmittedTask

# Lines sort like their numbers in files of up to a million lines.
LINE_DIGITS = 6
_LIKE_A_LINE = re.compile(r"[0-9]{6,9}", re.ASCII)


def line_key(number: int) -> str:
    """A run's name for the task in a line, without its prefix."""
    return f"{number:0{LINE_DIGITS}}"


def looks_like_a_line(key: str) -> bool:
    """Whether a task without an id could get this name."""
    return _LIKE_A_LINE.fullmatch(key) is not None


def in_run(tasks: Iterable[AdmittedTask], plan: RunPlan) -> Iterator[AdmittedTask]:
    """The tasks as those of a run, each once per sample."""
    for admitted in tasks:
        for fields in plan.fields(admitted.fields, key_of(admitted)):
            yield admitted.with_fields(**fields)


def random_part(tasks: Iterable[AdmittedTask], size: int, seed: int) -> list[AdmittedTask]:
    """Pick ``size`` tasks, in their order; the same ones each time for the same seed.

    Each task's rank in the draw is the SHA-256 of the seed and its id or line: a task that is added
    to the file displaces at most one.
    """

    def drawn(pair: tuple[int, AdmittedTask]) -> bytes:
        return hashlib.sha256(f"{seed} {key_of(pair[1])}".encode()).digest()

    part = heapq.nsmallest(size, enumerate(tasks), key=drawn)
    return [admitted for _, admitted in sorted(part, key=lambda pair: pair[0])]


def key_of(admitted: AdmittedTask) -> str:
    """The task's id; without one its line; without a file a hash of its question."""
    if admitted.named:
        return admitted.task_id
    if admitted.line:
        return line_key(admitted.line)
    question = str(admitted.fields.get("question", ""))
    return f"q-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
