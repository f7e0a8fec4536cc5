"""Turns join into rows of ids that only grow; no sampled id is invented or lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agentpipe.core.token_rows import REALIGN_TOKENS, TokenRow, TokenRows, Turn


def turn(prompt: list[int], *sampled: int, **more: Any) -> Turn:
    return Turn(prompt, list(sampled), [-each / 10 for each in sampled], **more)


def rows_of(*turns: Turn) -> TokenRows:
    rows = TokenRows()
    for each in turns:
        rows.add(each)
    return rows


def trained(row: TokenRow) -> list[tuple[int, float]]:
    """The sampled ids with their logprobs."""
    ids = [i for start, end in row.sampled for i in row.token_ids[start:end]]
    return list(zip(ids, row.logprobs, strict=True))


def test_a_prompt_that_begins_with_all_ids_continues_the_row() -> None:
    rows = rows_of(turn([1, 2], 3, 4), turn([1, 2, 3, 4, 5, 6], 7))
    (row,) = rows.rows
    assert row.token_ids == [1, 2, 3, 4, 5, 6, 7]
    assert row.sampled == [(2, 4), (6, 7)]
    assert row.logprobs == [-0.3, -0.4, -0.7]
    assert [each["at"] for each in row.turns] == [2, 6]
    assert rows.masked == 0


def test_an_end_that_comes_back_in_other_tokens_is_context() -> None:
    rows = rows_of(turn([1, 2], 3, 4, 5), turn([1, 2, 3, 40, 50, 6], 7))
    (row,) = rows.rows
    assert row.token_ids == [1, 2, 3, 40, 50, 6, 7]
    assert trained(row) == [(3, -0.3), (7, -0.7)]
    assert rows.masked == 2


def test_a_response_that_comes_back_wholly_in_other_tokens_is_context() -> None:
    rows = rows_of(turn([1, 2], 3, 4), turn([1, 2, 30, 5], 6))
    (row,) = rows.rows
    assert row.token_ids == [1, 2, 30, 5, 6]
    assert trained(row) == [(6, -0.6)]
    assert rows.masked == 2


def test_a_change_before_the_last_response_begins_a_row() -> None:
    rows = rows_of(turn([1, 2, 3], 4, 5), turn([1, 9, 3, 4, 5, 6], 7))
    assert [row.token_ids for row in rows.rows] == [[1, 2, 3, 4, 5], [1, 9, 3, 4, 5, 6, 7]]
    assert rows.rows[0].of is None
    assert rows.rows[1].of == {"segment": 0, "at": 1, "why": "rewrite"}
    assert rows.masked == 0


def test_a_change_too_far_back_begins_a_row() -> None:
    long = list(range(100, 100 + REALIGN_TOKENS + 1))
    assert len(rows_of(turn([1], *long), turn([1, 99, 2], 3)).rows) == 2
    assert len(rows_of(turn([1], *long[1:]), turn([1, 99, 2], 3)).rows) == 1


def test_the_same_prompt_asked_again_keeps_both_responses() -> None:
    rows = rows_of(turn([1, 2], 3, 4), turn([1, 2], 3, 5))
    assert [trained(row) for row in rows.rows] == [[(3, -0.3), (4, -0.4)], [(3, -0.3), (5, -0.5)]]
    assert rows.rows[1].of == {"segment": 0, "at": 2, "why": "resample"}
    assert rows.masked == 0


def test_a_sub_agent_has_a_row_and_its_caller_goes_on() -> None:
    main, other = [1, 2], [50, 51]
    rows = rows_of(
        turn(main, 3), turn(other, 52), turn([1, 2, 3, 4], 5), turn([50, 51, 52, 53], 54)
    )
    assert [row.token_ids for row in rows.rows] == [[1, 2, 3, 4, 5], [50, 51, 52, 53, 54]]
    assert [row.of for row in rows.rows] == [None, None]


def test_versions_follow_their_tokens() -> None:
    first = turn([1, 2], 3, 4, 5, versions=[(7, 0, 2), (8, 2, 3)])
    rows = rows_of(first, turn([1, 2, 3, 40], 6, versions=[(9, 0, 1)]))
    (row,) = rows.rows
    assert row.turns[0]["versions"] == [(7, 2, 3)]
    assert row.turns[1]["versions"] == [(9, 4, 5)]
    assert row.versions() == [7, 9]


def test_an_empty_response_loses_nothing() -> None:
    rows = rows_of(turn([1, 2]), turn([1, 2, 3], 4))
    assert [row.token_ids for row in rows.rows] == [[1, 2, 3, 4]]


class _Agent:
    """Prompts a model repeatedly, in every way that agents do."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._held: list[list[int]] = [self._ids(1, 6)]

    def _ids(self, least: int, most: int) -> list[int]:
        return [self._dice.randrange(4) for _ in range(self._dice.randint(least, most))]

    def turn(self) -> Turn:
        number = self._dice.randrange(len(self._held))
        prompt = self._prompt(self._held[number])
        sampled = self._ids(0, 5)
        turn = Turn(prompt, sampled, [-self._dice.random() for _ in sampled])
        if self._dice.random() < 0.2:
            self._held.append([*prompt, *sampled])
        else:
            self._held[number] = [*prompt, *sampled]
        return turn

    def _prompt(self, held: list[int]) -> list[int]:
        chance = self._dice.random()
        if chance < 0.2 and held:  # The template encodes the end with other tokens.
            return [*held[: -self._dice.randint(1, 3)], *self._ids(0, 4)]
        if chance < 0.3:  # A compaction, or a sub-agent.
            return self._ids(1, 6)
        return [*held, *self._ids(0, 4)]


@pytest.mark.parametrize("seed", range(300))
def test_whatever_an_agent_does_its_rows_are_what_the_engine_saw(seed: int) -> None:
    agent, rows, turns = _Agent(random.Random(seed)), TokenRows(), list[Turn]()
    for _ in range(12):
        turns.append(agent.turn())
        rows.add(turns[-1])
        seen = [*turns[-1].prompt_ids, *turns[-1].token_ids]
        assert seen in [row.token_ids for row in rows.rows], "the newest row is not what was seen"
    total = sum(len(each.token_ids) for each in turns)
    assert total == rows.masked + sum(len(row.logprobs) for row in rows.rows)
    given = {
        (token, round(logprob, 6))
        for each in turns
        for token, logprob in zip(each.token_ids, each.logprobs, strict=True)
    }
    for row in rows.rows:
        assert set(trained(row)) <= given
        edges = [edge for each in row.sampled for edge in each]
        assert edges == sorted(edges)
        assert edges[-1] == len(row.token_ids)


def test_forty_turns_are_stored_once() -> None:
    import orjson

    dice, held, rows = random.Random(0), list[int](), TokenRows()
    whole = 0
    for _ in range(40):
        prompt = [*held, *(dice.randrange(150_000) for _ in range(500))]
        sampled = [dice.randrange(150_000) for _ in range(150)]
        rows.add(Turn(prompt, sampled, [-dice.random() * 5 for _ in sampled]))
        held = [*prompt, *sampled]
        whole += len(orjson.dumps(held))
    size = len(orjson.dumps([row.to_dict() for row in rows.rows]))
    assert size <= 250_000
    assert whole > 10 * size
