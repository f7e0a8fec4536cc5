"""Random damage to a service's answers; the same seed gives the same damage."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS = (0, -1, 1.5, 2**70, 1e308)
STRINGS = ("", "error", "x" * 300, "\ud800", "\0")
VALUES: tuple[Any, ...] = (None, True, *NUMBERS, *STRINGS, [], [[]], {}, {"error": "no"})
BYTES = (b"\xff", b"\xed\xa0\x80", b"\0", b"\n", b'"', b"{", b"}", b"]", b",", b"\\ud800", b"NaN")


def mutated(data: bytes, seed: int) -> bytes:
    """``data`` damaged in one to three places: in its JSON if it has any, or in its bytes."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        data = _in_json(data, rng) if rng.random() < 0.6 else _in_bytes(data, rng)
    return data


def _in_bytes(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 8, 64)))
    return rng.choice(
        (
            data[:at] + rng.choice(BYTES) + data[at:],
            data[:at] + rng.choice(BYTES) + data[end:],
            data[:at] + data[end:],
            data[:end] + data[at:],
            data[:at],
        )
    )


def _in_json(data: bytes, rng: random.Random) -> bytes:
    """Damage one line that holds JSON, perhaps after ``data: ``."""
    lines = data.split(b"\n")
    places = [number for number, line in enumerate(lines) if b"{" in line]
    if not places:
        return _in_bytes(data, rng)
    place = rng.choice(places)
    head, brace, rest = lines[place].partition(b"{")
    try:
        value = json.loads(brace + rest)
    except (ValueError, RecursionError):
        return _in_bytes(data, rng)
    lines[place] = head + json.dumps(_changed(value, rng)).encode()
    return b"\n".join(lines)


def _changed(value: Any, rng: random.Random) -> Any:
    """``value`` with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value:
        name = rng.choice(sorted(value))
        rest = {key: item for key, item in value.items() if key != name}
        return _part(rng, value, rest, lambda: {**value, name: _changed(value[name], rng)})
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        rest_of = value[:at] + value[at + 1 :]
        return _part(rng, value, rest_of, lambda: [*value[:at], _changed(value[at], rng), *rest_of])
    return rng.choice(VALUES)


def _part(rng: random.Random, value: Any, without: Any, deeper: Any) -> Any:
    chance = rng.random()
    if chance < 0.1:
        return rng.choice(VALUES)
    if chance < 0.25:
        return without
    if chance < 0.3 and isinstance(value, list):
        return value + value
    return deeper()
