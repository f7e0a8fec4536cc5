"""Code shown but not run in the docs parses; the docs list every option, field and key.

``tests/integration/test_readme.py`` runs the rest.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
import yaml

import agentpipe
from agentpipe.brokers.rabbitmq import address as rabbitmq
from agentpipe.brokers.redis import address as redis
from agentpipe.cli.commands import COMMANDS, module_of
from agentpipe.cli.parser import parser_for
from agentpipe.compat.old_paths import MOVED
from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.schema import AgentFileSpec, CollectionSpec, PolicyDocumentSpec, ScheduleEntry
from agentpipe.connections.url import TLS_PARAMETERS
from agentpipe.engines import command
from agentpipe.engines.base import open_engine
from agentpipe.engines.llm.config import OWN_KEYS
from agentpipe.monitoring import bottleneck
from agentpipe.settings import _VARIABLES
from agentpipe.sinks.kafka import address as kafka
from agentpipe.sinks.rabbitmq import topic as rabbitmq_sink
from agentpipe.tui import keys
from brokers import launch
from tests.documents import DOCUMENTS, ROOT, blocks, code, fences, file_of, read, section, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

# `text` is for diagrams.
LANGUAGES = {"sh", "console", "python", "yaml", "json", "text"}
# Placeholders that a reader replaces with a value.
PLACEHOLDER = re.compile(r"\.\.\.|[\[\]…]|\b[A-Z][A-Z_]+\b")
# Tables escape it.
PIPE = ("|", "\\|")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
NAMES = re.MULTILINE | re.DOTALL
VARIABLE = re.compile(r"\b(?:AGENTPIPE_[A-Z_]*[A-Z]|AGENT_COLLECTION_CONFIG_FILE)\b")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
TARGETS |= {f"{verb}{server}" for verb in ("", "drop") for server in ("redis", "rabbitmq", "kafka")}
EXTRAS = set(re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
WHOLE = parser_for(COMMANDS)


def options(name: str) -> set[str]:
    """Every option of a command and of its actions."""
    parser = argparse.ArgumentParser()
    import_module(f"agentpipe.cli.{module_of(name)}").add(parser)
    parsers = [parser]
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            parsers += action.choices.values()
    return {option for each in parsers for option in each._option_string_actions}  # noqa: SLF001


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_block_is_in_a_language_that_a_test_checks(document: str) -> None:
    assert {kind for kind, _ in fences(document)} <= LANGUAGES


# Commands that are shown but not run.


def shown() -> list[str]:
    """Commands in console blocks and in the comments of `configs/`."""
    typed = [
        line.removeprefix("$ ")
        for document in DOCUMENTS
        for text in blocks(document, "console")
        for line in text.splitlines()
        if line.startswith("$ ")
    ]
    for path in sorted(ROOT.glob("configs/*.yaml")):
        typed += re.findall(r"^# (?:Before it: )?(agentpipe .*)$", path.read_text(), re.MULTILINE)
    return typed


@pytest.mark.parametrize("line", sorted(set(shown())))
def test_a_command_that_is_shown_parses(line: str) -> None:
    understand(shlex.split(line, comments=True))


def understand(words: list[str]) -> None:
    """Fail if the program would reject the words."""
    match words:
        case ["agentpipe", *rest] | ["python", "-m", "agentpipe", *rest]:
            WHOLE.parse_args(rest)
        case ["python", "-m", "brokers.launch", *rest]:
            launch.parser().parse_args(rest)
        case ["make", *targets]:
            assert set(targets) <= TARGETS
        case ["export", *assignments]:
            assert {each.partition("=")[0] for each in assignments} <= known_variables()
        case ["docker", "compose", "-f", file, *_]:
            assert (ROOT / file).exists()
        case [".", ".venv/bin/activate"] | ["cd", ".."]:
            pass
        case ["python", "-m", "pytest", files, "--store-url", _]:
            assert list(ROOT.glob(files))
        case ["pip", "install", "-e", extras, *_]:
            assert extras == "." or extras.strip(".[]") in EXTRAS
        case ["python", file]:
            assert any(file_of(text) == file for each in DOCUMENTS for _, text in fences(each))
        case _:
            pytest.fail(f"unknown command: {words}")


def known_variables() -> set[str]:
    theirs = re.findall(r"\b[A-Z]+_(?:HOST|PORT|TOPIC)\b", section("docs/reference.md", "Settings"))
    keys = re.findall(r"`([A-Z]+_API_KEY)`", section("docs/reference.md", "llm"))
    return {*_VARIABLES, *theirs, *keys}


def mentioned() -> Iterator[tuple[str, str, str]]:
    """Each command in prose: its document, its name, and its full text."""
    for document in DOCUMENTS:
        for text in code(document):
            words = text.removeprefix("agentpipe ").split()
            if words and words[0] in COMMANDS:
                yield document, words[0], text


def test_a_command_in_prose_has_these_options_and_parses() -> None:
    found = list(mentioned())
    assert len(found) > 50
    for document, name, text in found:
        assert set(OPTION.findall(text)) <= options(name), (document, text)
        if text.startswith("agentpipe ") and not PLACEHOLDER.search(text) and " " in text[10:]:
            words = shlex.split(text)
            understand(list(takewhile(lambda word: word not in PIPE, words)))


def test_code_that_starts_with_the_programs_name_is_a_command() -> None:
    for document in DOCUMENTS:
        for text in code(document):
            if match := re.match(r"agentpipe (?!-)(\S+)", text):
                assert match[1] in {*COMMANDS, "CMD", "help"}, (document, text)


def test_make_targets_in_prose_exist() -> None:
    for document in DOCUMENTS:
        for text in code(document):
            if match := re.fullmatch(r"make ([a-z-]+)", text):
                assert match[1] in TARGETS, (document, text)


# Python and YAML.


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_compile_and_import_what_exists(document: str) -> None:
    for text in blocks(document, "python"):
        compile(text, document, "exec")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentpipe"):
                names = {alias.name for alias in node.names}
                assert names <= public(node.module or ""), (document, names)


def public(module: str) -> set[str]:
    """Names that can be imported from ``module``; modules that need torch are only parsed."""
    if module == "agentpipe":
        return set(agentpipe.__all__)
    places = [ROOT / each.replace(".", "/") for each in MOVED.get(module, (module,))]
    return {name for place in places for name in _names_at(place)}


def _names_at(place: Path) -> list[str]:
    """Names that a module defines, or that a package lists in ``__all__``."""
    if place.is_dir():
        (listed,) = re.findall(r"^__all__ = \[(.*?)\]", (place / "__init__.py").read_text(), NAMES)
        return re.findall(r"\w+", listed)
    return re.findall(r"^(?:class|def) (\w+)", place.with_suffix(".py").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_json_blocks_are_json(document: str) -> None:
    for text in blocks(document, "json"):
        orjson.loads(text)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_yaml_blocks_match_their_schema(document: str) -> None:
    schemas = {
        "agent": AgentFileSpec(),
        "collection": CollectionSpec(),
        "policy": PolicyDocumentSpec(),
    }
    for text in blocks(document, "yaml"):
        for each in yaml.safe_load_all(text):
            assert schemas[each["kind"]].validate(each["spec"]) == {}, text


@pytest.mark.parametrize("document", DOCUMENTS)
def test_engines_accept_the_agents_in_yaml_blocks(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    named = [text for _, text in fences(document) if file_of(text)]
    for text in named:
        (tmp_path / str(file_of(text))).write_text(text)
    for text in named:
        if "\nkind: agent\n" in text:
            open_engine(load_agent_config(tmp_path / str(file_of(text))))


# Completeness.


def test_the_documented_variables_are_those_of_the_code() -> None:
    sources = [*ROOT.glob("agentpipe/**/*.py"), ROOT / "agentpipe/settings.py"]
    used = {name for path in sources for name in VARIABLE.findall(path.read_text())}
    used.discard("AGENTPIPE_RUN")  # Internal, from agentpipe to its children.
    documented = set(VARIABLE.findall(section("docs/reference.md", "Settings")))
    assert used == documented
    assert {name for each in DOCUMENTS for name in VARIABLE.findall(read(each))} <= used


def first_cells(heading: str) -> list[str]:
    """The codes in the first column of each table below a heading."""
    rows = re.findall(r"^\| (`.*?) \|", section("docs/reference.md", heading), re.MULTILINE)
    return [text for cell in rows for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Schedules", set(ScheduleEntry().fields)),
        ("llm", set(OWN_KEYS)),
        ("command", set(command._KEYS)),  # noqa: SLF001 - the table lists them
    ],
)
def test_a_table_lists_every_key(heading: str, names: set[str]) -> None:
    assert set(" ".join(first_cells(heading)).split()) == names


def test_every_parameter_of_a_url_is_documented() -> None:
    table = tables(section("docs/reference.md", "URLs"))[1]
    rows = " ".join(f"`{first}` {' '.join(rest)}" for first, rest in table.items())
    documented = set(re.findall(r"`([a-z_]+)(?:=[^`]*)?`", rows))
    there = {"synchronous", "prefix", *rabbitmq.PARAMETERS, *rabbitmq_sink.PARAMETERS}
    there |= {*kafka.PARAMETERS, *TLS_PARAMETERS}
    assert there <= documented
    text = read("docs/operations.md") + section("docs/reference.md", "URLs")
    assert [name for name in (*redis.FILES, "ssl_cert_reqs", "db") if f"{name}=" not in text] == []


def test_every_key_of_top_is_documented() -> None:
    moves = {*keys._MOVES, *keys._ENDS}  # noqa: SLF001 - the table lists them
    there = {*"pcds/?q", *(key for key in moves if len(key) == 1)}
    assert there <= set(first_cells("`agentpipe top`"))


def test_every_option_of_the_dataset_is_documented() -> None:
    tree = ast.parse((ROOT / "agentpipe/training/dataset.py").read_text())
    made = next(node for node in ast.walk(tree) if getattr(node, "name", "") == "__init__")
    assert isinstance(made, ast.FunctionDef)
    there = {each.arg for each in made.args.kwonlyargs}
    assert {name.partition("=")[0] for name in first_cells("PyTorch")} == there


# Remedies in the operations guide.


def bottlenecks() -> list[str]:
    """The reasons that `top` shows for a bottleneck, up to the first comma."""
    tree = ast.parse(Path(bottleneck.__file__).read_text())
    unsaid = {part for node in ast.walk(tree) if is_unsaid(node) for part in ast.walk(node)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node not in unsaid
    ]
    said = {re.split(r"[:;,]", text)[0].strip() for text in texts if isinstance(text, str)}
    return sorted(text for text in said if len(text.split()) > 2)


def is_unsaid(node: ast.AST) -> bool:
    """A docstring, or the text shown when there is no bottleneck."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Call) and ast.unparse(node).startswith("Bottleneck('',")


def test_top_has_reasons_for_bottlenecks() -> None:
    assert "workers are idle" in bottlenecks()
    assert len(bottlenecks()) > 8


@pytest.mark.parametrize("words", bottlenecks())
def test_what_top_says_has_its_row_in_operations(words: str) -> None:
    rows = re.findall(r"^\| (.*?) \|", section("docs/operations.md", "Is it moving?"), re.MULTILINE)
    assert any(words in row for row in rows)


# Which test covers which line.

TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_the_tests_that_the_documents_name_exist() -> None:
    named = [(each, *test) for each in DOCUMENTS for test in TEST.findall(read(each))]
    assert len(named) > 20
    for document, file, name in named:
        assert (ROOT / file).exists(), (document, file)
        assert not name or f"def {name}(" in (ROOT / file).read_text(), (document, file, name)


def test_each_line_of_security_names_its_test() -> None:
    lines = section("docs/security.md", "Lines, and the tests that hold them").splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| line ")]
    assert rows
    assert [row for row in rows if not any(name for _, name in TEST.findall(row))] == []
