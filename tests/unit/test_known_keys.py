"""Keys of known services are masked by their format, plain words are not."""

from __future__ import annotations

import orjson
import pytest

from agentpipe.core.known_keys import HELD, form_of, may_hold_key
from agentpipe.core.redaction import Redactor
from agentpipe.core.secret_names import is_credential

A1, HEX = "aB3dE6gH9k", "0123456789abcdef"
# Split so that no scanner takes them for keys; "~" marks the joint.
KEYS = [
    f"sk-~proj-{A1 * 3}",
    f"ghp~_{A1 * 4}",
    f"github_pat~_{A1 * 6}",
    f"glpat-~{A1 * 2}",
    "AK~IAIOSFODNN7EXAMPLE",
    "AS~IAIOSFODNN7EXAMPLE",
    f"AI~za{A1 * 3}aB3dE",
    f"xo~xb-{A1 * 2}",
    f"xap~p-1-{A1 * 2}",
    f"hf~_{A1 * 3}",
    f"gsk~_{A1 * 4}",
    f"xai~-{A1 * 4}",
    f"ntn~_{A1 * 4}",
    f"sk~_live_{A1}",
    f"rk~_test_{A1}",
    f"whsec~_{A1 * 3}",
    f"SG~.{A1 * 2}ab.{A1 * 4}abc",
    f"ya~29.{A1 * 3}",
    f"npm~_{A1 * 3}aB3dE6",
    f"pypi~-AgEI{A1 * 5}",
    f"S~K{HEX * 2}",
    f"dop~_v1_{HEX * 4}",
    f"lin_~api_{A1 * 4}",
    f"shpat~_{HEX * 2}",
    f"r8~_{A1 * 4}",
    f"pplx~-{A1 * 4}",
    f"nvapi~-{A1 * 4}",
    f"tvly~-{A1 * 3}",
    f"123456789:~AA{A1 * 3}abc",
    f"eyJ~hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{A1 * 3}",
    f"hooks.slack.com~/services/T0/B0/{A1}",
    f"discord.com/~api/webhooks/123/{A1 * 4}",
]
WORDS = [
    "sk-learn-is-a-library-for-machine-learning",
    "risk-and-reward-are-joined-by-hyphens",
    "npm_config_registry and hf_hub_download_of_some_file",
    "SK is Slovakia, SKU0123456789 is not",
    "a base64 page token: eyJvZmZzZXQiOjEwMH0=",
    "hooks.slack.com/services",
    "at 12345678:AA the ratio is",
    "Basic arithmetic, Bearer token authentication_and_authorization",
    "r8_ and pplx- and tvly-x",
    "task-0123456789, disk-usage-0123456789-abcdef",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_masked_hidden_and_found_in_json(key: str) -> None:
    key = key.replace("~", "")
    redactor = Redactor([])
    for text in (key, f"before {key}, behind", f'"{key}"', f"x={key}&y"):
        assert key not in redactor.text(text)
        assert redactor.text(text).count("***") == 1
        assert redactor.occurs_in(orjson.dumps({"answer": text}))
    assert is_credential("PLACE", key)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Basic"])
def test_what_a_header_carries_is_masked(scheme: str) -> None:
    said = Redactor([]).text(f"Authorization: {scheme} {A1 * 3}==; next")
    assert said == "Authorization: ***; next"


@pytest.mark.parametrize("words", WORDS)
def test_words_are_left_as_they_are(words: str) -> None:
    assert Redactor([]).text(words) == words
    assert not Redactor([]).occurs_in(orjson.dumps(words))


def test_each_form_is_looked_for_by_a_part_of_it() -> None:
    for key in (each.replace("~", "") for each in KEYS):
        assert [held for held in HELD if held in key and form_of(held).fullmatch(key)]


@pytest.mark.parametrize("held", HELD)
def test_a_part_of_a_key_is_found_in_any_place(held: str) -> None:
    for text in (held, f"{held}x", f"_-.:/{held}_-.:/", f"words, and more. {held}"):
        assert may_hold_key(text.encode())
    assert not may_hold_key(held[:-1].encode())
