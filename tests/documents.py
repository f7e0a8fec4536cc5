"""Parses the documents: blocks, sections, tables and inline code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("brokers/*.md"))
)
# Blocks in this language are run; blocks in `console` are parsed.
RUN = "sh"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")
_FIRST_CELL = re.compile(r"^\| `([^`]+)`", re.MULTILINE)


def read(document: str) -> str:
    return (ROOT / document).read_text()


def fences(document: str) -> list[tuple[str, str]]:
    """All code blocks in order, as pairs of language and text."""
    return [(kind, text) for kind, text in _FENCE.findall(read(document))]


def blocks(document: str, language: str) -> list[str]:
    return [text for kind, text in fences(document) if kind == language]


def prose(text: str) -> str:
    """The text without its code blocks."""
    return _FENCE.sub("", text)


def code(document: str) -> list[str]:
    """The code spans in the document's prose."""
    return [text.replace("\n", " ") for text in re.findall(r"`([^`]+)`", prose(read(document)))]


def file_of(text: str) -> str | None:
    """The file name in the block's first line, if it has one."""
    match = _FILE_NAME.match(text)
    return match[1] if match else None


def section(document: str, heading: str) -> str:
    """The section whose heading starts with ``heading``, up to the next of its level or above."""
    text = read(document)
    # A comment in a code block looks like a heading.
    lines = _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    match = re.search(rf"^(#+) {re.escape(heading)}.*?$", lines, re.MULTILINE)
    assert match, (document, heading)
    end = re.compile(rf"^#{{1,{len(match[1])}}} ", re.MULTILINE).search(lines, match.end())
    return text[match.start() : end.start() if end else len(text)]


def tables(text: str) -> list[dict[str, list[str]]]:
    """The rows of each table whose first column is code, keyed by that code."""
    found = []
    for paragraph in text.split("\n\n"):
        rows = [line for line in paragraph.splitlines() if _FIRST_CELL.match(line)]
        if rows:
            found.append({_FIRST_CELL.findall(row)[0]: cells(row) for row in rows})
    return found


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]
