"""Tool names: valid for model APIs, and one to one."""

from __future__ import annotations

import random
import re

from agentpipe.engines.llm.tool_names import MAX_CHARS, names_of

VALID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LETTERS = "ab_-./ :é話\U0001f600\ud800"


def random_tools(rng: random.Random) -> list[tuple[str, str]]:
    def word() -> str:
        return "".join(rng.choice(LETTERS) for _ in range(rng.choice((1, 2, 3, 30, 80))))

    return [(word(), word()) for _ in range(rng.randint(1, 40))]


def test_random_names_are_valid_one_to_one_and_the_same_in_any_order() -> None:
    for seed in range(500):
        rng = random.Random(seed)
        tools = random_tools(rng)
        names = names_of(tools)
        assert set(names.values()) == set(tools)
        assert len(names) == len(set(tools))
        assert all(VALID.fullmatch(name) for name in names)
        rng.shuffle(tools)
        assert names_of(tools) == names


def test_names_that_do_not_meet_stay_as_they_are() -> None:
    tools = [("web", "delete.item"), ("web", "delete_item"), ("web", "list"), ("mail", "list")]
    names = {tool: name for name, tool in names_of(tools).items()}
    assert names["web", "list"] == "web__list"
    assert names["mail", "list"] == "mail__list"
    met = {names["web", "delete.item"], names["web", "delete_item"]}
    assert len(met) == 2
    assert all(re.fullmatch(r"web__delete_item_[0-9a-f]{16}", name) for name in met)


def test_a_name_that_looks_like_anothers_digest_gets_one_itself() -> None:
    first = names_of([("web", "a.b"), ("web", "a_b")])
    taken = next(iter(first)).removeprefix("web__")
    names = names_of([("web", "a.b"), ("web", "a_b"), ("web", taken)])
    assert len(names) == 3


def test_two_servers_whose_names_join_alike_are_told_apart() -> None:
    names = names_of([("a__b", "c"), ("a", "b__c")])
    assert len(names) == 2
    assert max(map(len, names)) <= MAX_CHARS
