"""A run's tasks, and parts of a file: always the same ids, however often a file is sent."""

from __future__ import annotations

import hashlib
import heapq
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.core.run_plan import RunPlan
    from agentpipe.sending.admission import AdmittedTask

# Lines sort like their numbers, in files of up to a million.
LINE_DIGITS = 6
_LIKE_A_LINE = re.compile(r"[0-9]{6,9}", re.ASCII)


def line_key(number: int) -> str:
    """What a run calls the task in a line, without its prefix."""
    return f"{number:0{LINE_DIGITS}}"


def looks_like_a_line(key: str) -> bool:
    """Whether a task without an id could be called so."""
    return _LIKE_A_LINE.fullmatch(key) is not None


def in_run(tasks: Iterable[AdmittedTask], plan: RunPlan) -> Iterator[AdmittedTask]:
    """The tasks as those of a run, each as many times as it has samples."""
    for admitted in tasks:
        for fields in plan.fields(admitted.fields, key_of(admitted)):
            yield admitted.with_fields(**fields)


def random_part(tasks: Iterable[AdmittedTask], size: int, seed: int) -> list[AdmittedTask]:
    """So many of the tasks, in their order; the same ones whenever they are sent with this seed.

    Each task's place in the draw is the SHA-256 of the seed and its id or line: a task that is
    added to the file displaces one at most.
    """

    def drawn(pair: tuple[int, AdmittedTask]) -> bytes:
        return hashlib.sha256(f"{seed} {key_of(pair[1])}".encode()).digest()

    part = heapq.nsmallest(size, enumerate(tasks), key=drawn)
    return [admitted for _, admitted in sorted(part, key=lambda pair: pair[0])]


def key_of(admitted: AdmittedTask) -> str:
    """The task's id; without one its line, or what it asks where it is in no file."""
    if admitted.named:
        return admitted.task_id
    if admitted.line:
        return line_key(admitted.line)
    question = str(admitted.fields.get("question", ""))
    return f"q-{hashlib.sha256(question.encode()).hexdigest()[:16]}"
