"""Impossible ids of sampled tokens are ignored."""

from __future__ import annotations

from typing import Any

import pytest

from agentpipe.engines.models.sampled_ids import sampled_in


def completion(prompt: Any, ids: Any, *logprobs: Any, text: str = "yes") -> Any:
    content = [{"token": "t", "logprob": each} for each in logprobs]
    choice = {"token_ids": ids, "logprobs": {"content": content}, "message": {"content": text}}
    return {"prompt_token_ids": prompt}, choice


def test_ids_with_a_logprob_each_are_taken() -> None:
    found = sampled_in(*completion([1], [2, 3], -0.5, 0.0001))
    assert found is not None
    assert (found.prompt_ids, found.token_ids, found.logprobs) == ([1], [2, 3], [-0.5, 0.0])


@pytest.mark.parametrize(
    "given",
    [
        completion([], [2], -0.5),
        completion([1], [], text="yes"),
        completion([1], [2], 5.0),
        completion([1], [2], float("-inf")),
        completion([1], [2], float("nan")),
        completion([1], [2, 3], -0.5),
        completion([1], [2], True),
        completion([1], [2.0], -0.5),
        completion([1], [True], -0.5),
        completion([1], [-2], -0.5),
        completion([1], [2**40], -0.5),
        completion("1", [2], -0.5),
        completion(None, None),
    ],
)
def test_others_are_none(given: Any) -> None:
    assert sampled_in(*given) is None


def test_an_empty_response_has_no_ids_to_miss() -> None:
    assert sampled_in(*completion([1], [], text="")) is not None
