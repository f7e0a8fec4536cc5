"""The index of a secret's forms finds few one by one and many by blocks, with the same result."""

from __future__ import annotations

import random
import string
from typing import Literal

import pytest

from agentpipe.core.normal_text import views
from agentpipe.core.secret_forms import FEW_KEYS, Form, FormIndex, forms_of

LETTERS = string.ascii_letters + string.digits
WIDTHS: list[Literal[4, 8]] = [4, 8]


def words(seed: int, number: int, least: int, most: int) -> list[str]:
    drawn = random.Random(seed)
    sizes = [drawn.randint(least, most) for _ in range(number)]
    return ["".join(drawn.choices(LETTERS, k=size)) for size in sizes]


def text_with(parts: list[str], seed: int) -> bytes:
    """The parts whole, cut by a character, and escaped, among other text."""
    drawn = random.Random(seed)
    noise = words(seed, 60, 1, 12)
    cut = [part[1:] for part in parts[::2]] + [part[:-1] for part in parts[1::2]]
    escaped = ["".join(f"\\u00{ord(each):02x}" for each in part) for part in parts[:2]]
    shown = [*noise, *parts, *cut, *escaped]
    drawn.shuffle(shown)
    return " ".join(shown).encode()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("seed", range(40))
def test_few_forms_are_found_like_many(width: Literal[4, 8], seed: int) -> None:
    least = 2 * width - 1
    few = [Form(each) for each in words(seed, FEW_KEYS, least, 3 * least)]
    absent = [Form(each) for each in words(1_000 + seed, 4 * FEW_KEYS, least, 3 * least)]
    there = [each.exact for each in few[: seed % (FEW_KEYS + 1)]]
    looked_at = views(text_with(there, seed))
    by_key, by_blocks = FormIndex(few, width), FormIndex([*few, *absent], width)
    assert by_key.found(looked_at) == by_blocks.found(looked_at) - set(absent)
    assert {form.exact for form in by_key.found(looked_at)} >= set(there)


@pytest.mark.parametrize("width", WIDTHS)
def test_forms_with_the_same_letters_are_all_found(width: Literal[4, 8]) -> None:
    forms = [each for each in forms_of("pass-word-0123456789-abcdef") if len(each.key) >= 15]
    same = [each for each in forms if each.key == forms[0].key]
    found = FormIndex(same, width).found([b"xx" + forms[0].key + b"yy"])
    assert found == set(same)


def test_an_index_without_forms_finds_nothing() -> None:
    index = FormIndex([], 8)
    assert not index
    assert index.found([b"anything"]) == set()
