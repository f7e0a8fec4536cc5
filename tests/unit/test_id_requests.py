"""Requests for token ids: a server that refuses gets a pause, and the log says so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.core.rollout import IDS_REFUSED, NO_TOKEN_IDS
from agentpipe.engines.models.recording import REFUSED_FOR_S, IdRequests

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def test_a_refusal_is_said_once_and_ends(
    pass_time: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    models = [IdRequests("models.example:8000") for _ in range(3)]
    assert all(each.are_wanted and each.gap == NO_TOKEN_IDS for each in models)
    with caplog.at_level(logging.WARNING):
        for each in models:
            each.note_refusal()
    assert not any(each.are_wanted for each in models)
    assert {each.gap for each in models} == {IDS_REFUSED}
    (line,) = caplog.records
    assert "models.example:8000 refuses to be asked for token ids" in line.getMessage()
    pass_time(REFUSED_FOR_S)
    assert all(each.are_wanted for each in models)
