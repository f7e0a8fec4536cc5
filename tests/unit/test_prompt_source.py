"""A trainer's prompts from lists and loaders: none skipped or repeated, whatever is loaded."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.errors import ConfigError
from agentpipe.training.prompt_source import PromptSource

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = [f"p{number}" for number in range(23)]


class Loader:
    """Yields batches; like some loaders, it returns to its initial state at the end."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0
        self.drawn = 0

    def __iter__(self) -> Iterator[list[str]]:
        while self._at < len(NAMES):
            begin, self._at = self._at, self._at + self._size
            self.drawn += 1
            yield NAMES[begin : self._at]
        self._at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self._at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._at = state["at"]


class Forgetful(Loader):
    """Applies a loaded state only once iterated, as Hugging Face's loader does."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._start = state["at"]

    def __iter__(self) -> Iterator[list[str]]:
        self._at = getattr(self, "_start", 0)
        return super().__iter__()


def taken(source: PromptSource, number: int = 100) -> list[Any]:
    found = list[Any]()
    while len(found) < number and source.has_next():
        found.append(source.task())
        source.take()
    return found


def made(kind: str) -> Any:
    return {
        "list": NAMES,
        "batches": [NAMES[:5], NAMES[5:]],
        "loader": Loader(4),
        "forgetful": Forgetful(3),
        "one by one": Loader(1),
    }[kind]


@pytest.mark.parametrize("kind", ["list", "batches", "loader", "forgetful", "one by one"])
@pytest.mark.parametrize("seed", range(8))
def test_any_states_give_the_rest(kind: str, seed: int) -> None:
    dice, found, state = random.Random(seed), list[str](), None
    for _ in range(8):
        source = PromptSource(made(kind))
        if state is not None:
            source.load_state_dict(json.loads(json.dumps(state)))
        found += taken(source, dice.randrange(5))
        if dice.random() < 0.5:
            source.has_next()  # The next prompt is drawn, but not sent.
        state = source.state_dict()
        taken(source, dice.randrange(4))  # Taken after the state, so they come again.
    last = PromptSource(made(kind))
    last.load_state_dict(state or {})
    assert found + taken(last) == NAMES
    assert taken(last) == []
    ended = PromptSource(made(kind))
    ended.load_state_dict(last.state_dict())
    assert taken(ended) == []


def test_a_loaded_state_is_given_again_before_it_is_used() -> None:
    first = PromptSource(Loader(4))
    taken(first, 6)
    state = first.state_dict()
    assert state == {"taken": 6, "loader": {"at": 8}, "left": ["p6", "p7"], "ended": False}
    second = PromptSource(Forgetful(4))
    second.load_state_dict(state)
    assert second.state_dict() == state


@pytest.mark.parametrize("kind", ["list", "loader"])
def test_each_of_several_trainers_has_its_part(kind: str) -> None:
    found, again = list[str](), list[str]()
    for number in range(3):
        source = PromptSource(made(kind), shard=(number, 3))
        found += taken(source, 2)
        state = source.state_dict()
        rest = PromptSource(made(kind), shard=(number, 3))
        rest.load_state_dict(state)
        again += taken(rest)
    assert sorted(found + again) == sorted(NAMES)


def test_a_loader_is_not_drawn_from_further_than_needed() -> None:
    loader = Loader(1)
    source = PromptSource(loader)
    assert taken(source, 5) == NAMES[:5]
    assert loader.drawn == 5


def test_a_function_makes_tasks_of_prompts() -> None:
    source = PromptSource(["a", "b"], task_of=lambda prompt: {"question": prompt})
    assert taken(source) == [{"question": "a"}, {"question": "b"}]


def test_a_state_by_number_alone_is_passed_over_by_a_loader_too() -> None:
    source = PromptSource(Loader(4))
    source.load_state_dict({"taken": 6})
    assert taken(source) == NAMES[6:]


def test_prompts_that_were_used_before_or_have_become_fewer_are_refused() -> None:
    for kept in (3, 0):
        source = PromptSource(iter(NAMES[:kept]))
        source.load_state_dict({"taken": 6})
        with pytest.raises(
            ConfigError, match=f"has taken 6 prompts, and these are {6 - kept} fewer"
        ):
            source.has_next()


def test_a_loaders_state_is_refused_by_prompts_that_have_none() -> None:
    first = PromptSource(Loader(4))
    taken(first, 1)
    with pytest.raises(ConfigError, match="give the loader that it was saved with"):
        PromptSource(NAMES).load_state_dict(first.state_dict())


def failing() -> Iterator[str]:
    yield "p0"
    raise OSError("disk")


def test_prompts_whose_reading_fails_have_not_ended() -> None:
    """A generator that has raised ends: the rest of the prompts would be left out silently."""
    source = PromptSource(failing())
    assert taken(source, 1) == ["p0"]
    with pytest.raises(OSError, match="disk"):
        source.has_next()
    for _ in range(2):
        with pytest.raises(ConfigError, match="reading the prompts has failed") as raised:
            source.has_next()
        assert isinstance(raised.value.__cause__, OSError)


class Flaky(Loader):
    """Its first read fails; it can be read on."""

    def __init__(self) -> None:
        super().__init__(4)
        self.fails = True

    def __iter__(self) -> Flaky:
        return self

    def __next__(self) -> list[str]:
        if self.fails:
            self.fails = False
            raise OSError("network")
        begin, self._at = self._at, self._at + 4
        if begin >= len(NAMES):
            raise StopIteration
        return NAMES[begin : self._at]


def test_a_loader_that_goes_on_after_an_error_gives_all() -> None:
    source = PromptSource(Flaky())
    with pytest.raises(OSError, match="network"):
        source.has_next()
    assert taken(source) == NAMES


def test_an_error_of_the_users_function_names_its_prompt() -> None:
    source = PromptSource([{"id": 3}], task_of=lambda prompt: prompt["question"])
    assert source.has_next()
    with pytest.raises(KeyError) as raised:
        source.task()
    assert raised.value.__notes__ == ["raised by `task_of` for the prompt {'id': 3}"]


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError("shown too early")


@pytest.mark.parametrize("prompt", [Shy(), {"image": Shy()}], ids=["alone", "inside"])
def test_a_prompt_that_cannot_be_shown_hides_no_error(prompt: Any) -> None:
    source = PromptSource([prompt], task_of=lambda prompt: prompt["question"])
    assert source.has_next()
    with pytest.raises((KeyError, TypeError)) as raised:
        source.task()
    assert "raised by `task_of` for the prompt" in raised.value.__notes__[0]


class Broken(Loader):
    def load_state_dict(self, state: dict[str, int]) -> None:
        raise OSError(f"nothing at {state['at']}")


def test_a_loader_that_cannot_load_leaves_the_source_as_it_was() -> None:
    first = PromptSource(Loader(4))
    taken(first, 6)
    source = PromptSource(Broken(4))
    before = source.state_dict()
    with pytest.raises(OSError, match="nothing at 8"):
        source.load_state_dict(first.state_dict())
    assert source.state_dict() == before
