"""The tones of outcomes."""

from __future__ import annotations

from agentpipe.core.result import OUTCOMES
from agentpipe.show.tones import TONES, tone_of


def test_each_outcome_has_a_tone() -> None:
    assert TONES.keys() == set(OUTCOMES)


def test_an_unknown_outcome_is_bad() -> None:
    assert tone_of("made up") == tone_of(None) == "bad"
