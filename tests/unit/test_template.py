"""Templates are replaced with a context's values; no expression in them is evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from agentpipe.core.template import render

ENV = {"A": "1", "B_2": "{{ A }}", "_": "", "EVIL": "\\1 \\g<0>"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ A }}", "1"),
        ("{{A}}", "1"),
        ("{{\tA\n}}", "1"),
        ("x{{ A }}y{{ A }}", "x1y1"),
        ("{{ _ }}", ""),
        ("{{ B_2 }}", "{{ A }}"),  # Inserted values are not searched again.
        ("{{ EVIL }}", "\\1 \\g<0>"),
        ("{{ NOBODY }} {{NOBODY}}", "{{ NOBODY }} {{NOBODY}}"),
        (
            "{{ A.b }} {{ A|upper }} {{ 1 + 1 }} {{ A() }}",
            "{{ A.b }} {{ A|upper }} {{ 1 + 1 }} {{ A() }}",
        ),
        ("{% if A %} {{ }} {{{{ { { A } }", "{% if A %} {{ }} {{{{ { { A } }"),
        ("{{{ A }}}", "{1}"),
        ("{{ É }}", "{{ É }}"),
        ({"{{ A }}": ["{{ A }}", {"k": "{{ A }}"}]}, {"{{ A }}": ["1", {"k": "1"}]}),
        ([1, 1.5, True, None], [1, 1.5, True, None]),
        ("", ""),
    ],
)
def test_names_are_replaced_and_all_else_stands(value: Any, expected: Any) -> None:
    assert render(value, ENV) == expected


def test_what_is_given_is_not_changed() -> None:
    value = {"list": ["{{ A }}"]}
    assert render(value, ENV) == {"list": ["1"]}
    assert value == {"list": ["{{ A }}"]}


def test_a_long_text_of_braces_costs_no_time() -> None:
    text = "{{ A " * 200_000
    assert render(text, ENV) == text
    assert render("{{" + " " * 1_000_000, ENV) == "{{" + " " * 1_000_000
