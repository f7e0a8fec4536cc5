"""Every regular expression of the program is linear: no foreign text can stall a worker.

The patterns are found in the source, so a new one is tested without a line here. Hostile texts are
built from the pattern itself: a prefix of a match, then a piece repeated, without a valid end.
"""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pytest

import agentpipe
from agentpipe.core.failure_digest import failure_digest
from agentpipe.core.normal_text import pattern_of
from agentpipe.core.redaction import Redactor, without_password
from agentpipe.engines.llm.json_answers import json_in
from agentpipe.operations.dead_letters import shape

PACKAGE = Path(agentpipe.__file__).parent
# Importing them has effects, or needs what is not installed here.
NOT_IMPORTED = {"agentpipe.actors", "agentpipe.__main__", "agentpipe.training.dataset"}
# Patterns that another module compiles; they are tested there.
GIVEN = {"credentials": "agentpipe.core.secret_names.CREDENTIAL_NAMES"}
METHODS = ("search", "match", "fullmatch", "sub", "findall", "finditer", "split", "subn")
# Their input is cut to a few hundred characters first; tested below through their functions.
BOUNDED = {"agentpipe.core.failure_digest", "agentpipe.operations.dead_letters"}
SMALL, LARGE = 2_000, 16_000
# Quadratic time would give a ratio of 64; a loaded machine can double any measurement.
MAX_RATIO = 24
# Shorter times are noise. Quadratic patterns need about 100 ms for the large text.
WORTH_A_LOOK_S = 0.02


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Those that name the module ``re``; to parse all others takes seconds."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(rb"\bre\.", source := path.read_bytes()):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(source)


def inline(tree: ast.Module) -> Iterator[re.Pattern[Any]]:
    """Patterns in calls such as ``re.sub("x", ...)``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in METHODS and ast.unparse(node.func)[:3] == "re.":
            pattern = node.args[0]
            if ast.unparse(pattern) in GIVEN:
                continue
            assert isinstance(pattern, ast.Constant), f"name it, in the module: {ast.unparse(node)}"
            yield re.compile(pattern.value)


def held(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from chain.from_iterable(map(held, value))
    elif isinstance(value, Mapping):
        yield from held([*value.values()])


def all_patterns() -> dict[re.Pattern[Any], set[str]]:
    """Each pattern and the methods that use it; an empty set if unknown, which means all."""
    found: dict[re.Pattern[Any], set[str]] = {}
    for name, tree in modules():
        if name in NOT_IMPORTED | BOUNDED:
            continue
        source = ast.unparse(tree)
        named = vars(importlib.import_module(name)).items() if "re.compile" in source else ()
        for key, pattern in ((key, each) for key, value in named for each in held(value)):
            used = {each for each in METHODS if f"{key}.{each}(" in source}
            found[pattern] = found.get(pattern, set()) | used
        found |= {pattern: set() for pattern in inline(tree)}
    return found


def pieces(tree: Any) -> Iterator[str]:
    """Matching text for each part of a parsed pattern."""
    for kind, value in tree:
        name = str(kind)
        if name == "LITERAL":
            yield chr(value)
        elif name == "IN":
            yield one_of(value)
        elif name in ("NOT_LITERAL", "ANY"):
            yield "a"
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            yield "".join(pieces(value[2])) * max(1, min(value[0], 40))
        elif name == "SUBPATTERN":
            yield from pieces(value[3])
        elif name == "ATOMIC_GROUP":
            yield from pieces(value)
        elif name == "BRANCH":
            yield from chain.from_iterable(map(pieces, value[1]))


def one_of(choices: Any) -> str:
    pattern = re.compile("".join(["[", *map(shown, choices), "]"]))
    return next(filter(pattern.match, map(chr, [97, 49, *range(32, 127), 10])), "\0")


def shown(choice: Any) -> str:
    kind, value = str(choice[0]), choice[1]
    if kind == "NEGATE":
        return "^"
    if kind == "RANGE":
        return "-".join(re.escape(chr(each)) for each in value)
    words = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w", "NOT_WORD": r"\W", "NOT_SPACE": r"\S"}
    return (
        words[str(value).removeprefix("CATEGORY_")] if kind == "CATEGORY" else re.escape(chr(value))
    )


def text_of_pattern(pattern: re.Pattern[Any]) -> str:
    source = pattern.pattern
    return source.decode("latin-1") if isinstance(source, bytes) else str(source)


def parsed(pattern: re.Pattern[Any]) -> Any:
    text = text_of_pattern(pattern)
    parser = re._parser  # type: ignore[attr-defined]  # noqa: SLF001 - no public parser
    return parser.parse(text, pattern.flags & re.DOTALL)


def hostile(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    """Pairs of a prefix and a text to repeat after it."""
    parts = [*pieces(parsed(pattern))]
    joined = "".join(parts)
    at = [0, *(len("".join(parts[: index + 1])) for index in range(len(parts)))]
    at = sorted({*at[:6], *at[-6:], *(i + 1 for i, c in enumerate(joined) if not c.isalnum())})
    cuts = at if len(at) <= 12 else [*at[:6], *at[-6:]]
    whole = {joined[first:last] for first, last in combinations(cuts, 2)}
    repeated = {*whole, *parts, *" a1-.'", "a ", "a-", "a."} - {""}
    begun = {"", *(joined[:each] for each in cuts[:4])}
    yield from product(begun, repeated)


def seconds(call: Callable[[Any], object], text: Any) -> float:
    """Processor time of this thread, the better of two runs: other processes do not count."""
    taken = []
    for _ in range(2):
        before = time.thread_time()
        call(text)
        taken.append(time.thread_time() - before)
    return min(taken)


def grows_too_fast(
    call: Callable[[Any], object], text_of: Callable[[int], Any], times: int = 1
) -> bool:
    small_s = seconds(call, text_of(SMALL * times))
    if small_s < WORTH_A_LOOK_S * SMALL / LARGE:
        return False
    large_s = seconds(call, text_of(LARGE * times))
    return large_s > WORTH_A_LOOK_S and large_s / small_s > MAX_RATIO


def calls(pattern: re.Pattern[Any], used: Iterable[str]) -> list[Callable[[Any], object]]:
    if {*used} == {"fullmatch"}:
        return [pattern.fullmatch]
    if {*used} <= {"fullmatch", "match"} and used:
        return [pattern.fullmatch, pattern.match]
    return [pattern.fullmatch, pattern.findall]


def flaws(pattern: re.Pattern[Any], used: set[str]) -> Iterator[str]:
    for (begun, repeated), end in product(hostile(pattern), ("", "\0")):

        def text_of(size: int, begun: str = begun, repeated: str = repeated, end: str = end) -> Any:
            text = begun + repeated * (size // len(repeated)) + end
            return text.encode() if isinstance(pattern.pattern, bytes) else text

        for call in calls(pattern, used):
            if grows_too_fast(call, text_of):
                yield f"{pattern.pattern!r}: {begun!r}, {repeated!r} again and again, {end!r}"


@pytest.mark.long
def test_a_pattern_takes_time_as_the_text_grows() -> None:
    patterns = all_patterns()
    assert len(patterns) > 50, "they are not found any more"
    found = [next(flaws(pattern, used), None) for pattern, used in patterns.items()]
    assert not any(found), [*filter(None, found)]


def test_the_test_finds_a_quadratic_pattern() -> None:
    pattern = re.compile(r"\bsk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}")
    assert next(flaws(pattern, {"sub"}), None)


# Each alternative matches whatever follows its first character, so it never fails midway.
NEVER_HALF_WAY = r'"(?:[^"\\]++|\\.?)*+"?'
ONE_CHARACTER = {"LITERAL", "NOT_LITERAL", "IN", "ANY"}


def possessive_groups(tree: Any) -> Iterator[Any]:
    for kind, value in tree:
        name = str(kind)
        if name.endswith("_REPEAT"):
            kinds = [str(each[0]) for each in value[2]]
            if name == "POSSESSIVE_REPEAT" and (len(kinds) > 1 or {*kinds} - ONE_CHARACTER):
                yield value[2]
            yield from possessive_groups(value[2])
        elif name in ("SUBPATTERN", "ASSERT", "ASSERT_NOT", "ATOMIC_GROUP", "BRANCH"):
            inner = value if name == "ATOMIC_GROUP" else value[-1]
            for each in inner if name == "BRANCH" else [inner]:
                yield from possessive_groups(each)


def test_no_group_is_repeated_possessively() -> None:
    """Before Python 3.11.5, one that fails midway loses its position: secrets were not masked."""
    of_secret = pattern_of(b"a0x1n", (1, 1), marked=True, behind_backslash=frozenset({4}))
    wrong = [
        pattern.pattern
        for pattern in [*all_patterns(), of_secret]
        if NEVER_HALF_WAY not in text_of_pattern(pattern)
        if any(possessive_groups(parsed(pattern)))
    ]
    assert not wrong


REPEATED = (
    *("sk-", "ghp_", "-----BEGIN PRIVATE KEY-----", "%41", "\\u0061", "QUJD", "aa:"),
    *(
        "\\f",
        "\\\\",
        "CORP\\\\foe\\b",
        "'a ",
        "a-",
        "a/",
        "a@",
        "://a:",
        "management=http",
        "{",
        '["a',
        "```\n",
    ),
)
FUNCTIONS: dict[str, Callable[[str], str]] = {
    "failure_digest": lambda text: failure_digest("E", text),
    "without_password": without_password,
    "shape": shape,
    "json_in": lambda text: json_in(text, {}),
    "redactor": Redactor(["a-secret-of-a-context"]).text,
    "redactor of backslashes": Redactor([r"CORP\foe\bar:passw0rd-0123456789"]).text,
}


@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_reads_foreign_text_takes_time_as_it_grows(name: str, repeated: str) -> None:
    def text_of(size: int) -> str:
        return repeated * (size // len(repeated))

    assert not grows_too_fast(FUNCTIONS[name], text_of, times=8)
