"""Tones: how good or bad each outcome is. Every view colours outcomes by these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Tone = Literal["good", "fair", "bad", "faint"]

# Fair is what an agent did; bad is what the infrastructure did, and what was not judged.
TONES: Mapping[str, Tone] = {
    "ok": "good",
    "agent_error": "fair",
    "limit": "fair",
    "infra_error": "bad",
    "eval_error": "bad",
    "crashed": "bad",
    "cancelled": "faint",
    "stale": "faint",
}


def tone_of(outcome: str | None) -> Tone:
    """The tone of an outcome; an unknown one is bad."""
    return TONES.get(outcome or "", "bad")
