"""What a PyTorch trainer cannot use is refused where it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentpipe import ConfigError, RolloutBatch, Settings
from agentpipe.training.dataset import AgentStreamingDataset


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": "5"}, "limit must be an integer of at least 1, not '5'"),
        ({"lag": -1}, "lag must be an integer of at least 0"),
        ({"keep_states": 0}, "keep_states must be an integer of at least 1"),
        ({"timeout_s": "5"}, "timeout_s must be None or a number of seconds"),
        ({"transform": "tensors"}, "transform must be a function"),
        ({"settings": "sqlite:///x.db"}, "settings must be agentpipe.Settings"),
        ({"start": "beginn"}, "start: expected 'beginning'"),
        ({"groups": True, "min_good": "2"}, "min_good must be an integer"),
        ({"groups": True, "keep": "all"}, "keep must be a function"),
        ({"min_good": 2}, "min_good is of groups: it needs groups=True"),
    ],
    ids=str,
)
def test_an_argument_that_is_no_use_is_refused_by_its_name(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        AgentStreamingDataset(**{"settings": Settings(), **options})


@pytest.mark.parametrize(("rank", "world"), [("one", "2"), ("2", "2"), ("1", "")])
def test_a_rank_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str
) -> None:
    """By a hash it would have no part of the results, and wait for ever."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=r"^RANK"):
        AgentStreamingDataset(settings=Settings()).state_dict()


def test_a_tokenizer_without_a_pad_token_is_named() -> None:
    """Rows of one length need no padding: the error would come with a later batch."""
    with pytest.raises(ConfigError, match="pad_id must be a token id: of a tokenizer without"):
        RolloutBatch(0, ()).tensors(pad_id=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("pad_id", [True, 1.0, "0"])
def test_a_pad_that_is_no_integer_is_refused(pad_id: Any) -> None:
    with pytest.raises(ConfigError, match="pad_id must be a token id"):
        RolloutBatch(0, ()).tensors(pad_id=pad_id)


def test_an_integer_of_a_library_is_a_pad() -> None:
    """A tokenizer's ids can be NumPy's."""
    assert RolloutBatch(0, ()).tensors(pad_id=torch.tensor(0))["input_ids"].shape == (0, 0)


def test_the_tensors_of_no_rows_have_two_dimensions() -> None:
    assert RolloutBatch(0, ()).tensors(pad_id=0)["input_ids"].shape == (0, 0)
