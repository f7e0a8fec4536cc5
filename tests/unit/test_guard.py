"""What a guard does after its worker has ended."""

from __future__ import annotations

import os

import pytest

from agentpipe.core.delivered import Delivered
from agentpipe.worker.watch import guard
from agentpipe.worker.watch.last_word import LastWord, LastWordFile

NO_WORKER = -1  # A pid of no process.


@pytest.mark.parametrize("lies_there", [True, False])
def test_a_guard_speaks_of_what_only_lay_with_its_worker(
    monkeypatch: pytest.MonkeyPatch, *, lies_there: bool
) -> None:
    word = LastWord.of("")
    word.serve("w", 1)
    if lies_there:
        word.lay(Delivered("t", 1))
    spoken: list[tuple[Delivered, ...]] = []
    monkeypatch.setattr(guard, "_bury_dead", lambda seen, *_: spoken.append(seen.read().ahead))
    monkeypatch.setattr(os, "environ", {})
    guard._watch(NO_WORKER, LastWordFile.open(word.path))  # noqa: SLF001 - needs no process
    assert spoken == ([(Delivered("t", 1),)] if lies_there else [])
