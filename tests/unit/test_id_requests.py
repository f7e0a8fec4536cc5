"""Requests for token ids: a server that refuses is left alone for a while, and the log says so."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from agentpipe.core.rollout import IDS_REFUSED, NO_TOKEN_IDS
from agentpipe.engines.models.recording import REFUSED_FOR_S, IdRequests

if TYPE_CHECKING:
    import pytest


def test_a_refusal_is_said_once_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    models = [IdRequests("models.example:8000") for _ in range(3)]
    assert all(each.are_wanted and each.gap == NO_TOKEN_IDS for each in models)
    with caplog.at_level(logging.WARNING):
        for each in models:
            each.note_refusal()
    assert not any(each.are_wanted for each in models)
    assert {each.gap for each in models} == {IDS_REFUSED}
    (line,) = caplog.records
    assert "models.example:8000 refuses to be asked for token ids" in line.getMessage()
    now += REFUSED_FOR_S
    assert all(each.are_wanted for each in models)
