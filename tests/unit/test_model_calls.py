"""A model call whose client hangs up: what that says depends on how long it had waited."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from agentpipe.engines.gateway.model_calls import MIN_SILENCE_S, ModelCall

if TYPE_CHECKING:
    from agentpipe.engines.gateway.http_server import Reply


def hung_up(after_s: float, *, is_held: bool) -> ModelCall:
    """A call whose client hung up; ``is_held`` if a paused policy held it."""

    class Closed:
        hung_up_at = time.monotonic() + after_s

    reply: Reply = Closed()  # type: ignore[assignment]  # a reply's only part that a call reads
    call = ModelCall(reply)
    call.is_held = is_held
    call.end(None)
    return call


@pytest.mark.parametrize("is_held", [False, True])
def test_who_hangs_up_at_once_has_not_given_up(*, is_held: bool) -> None:
    assert hung_up(0.01, is_held=is_held).failure is None


@pytest.mark.parametrize(("is_held", "kind"), [(False, "ModelTimeout"), (True, "PolicyPaused")])
def test_who_waited_has_given_up(*, is_held: bool, kind: str) -> None:
    failure = hung_up(2 * MIN_SILENCE_S, is_held=is_held).failure
    assert getattr(failure, "kind", None) == kind
