"""Blocks: the output of ``agentpipe show`` as blocks of a web page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.show.page import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

# Labels of blocks that are closed at first; the labels are those on a terminal.
FOLDED = ("tool", "calls", "arguments", "system", "developer", "data")
_TONES = {"red": "bad", "yellow": "fair", "green": "good", "dim": "faint"}


@dataclass(frozen=True, slots=True)
class Block:
    """A text with its label; ``tone`` is the CSS class of its colour."""

    label: str
    text: str
    tone: str = ""
    is_heading: bool = False

    @property
    def folds(self) -> bool:
        """Whether the block is closed at first."""
        return self.label in FOLDED


class Blocks(Page):
    """Collects what is drawn as blocks; does not cut texts, which ``task`` does."""

    def __init__(self) -> None:
        super().__init__(width=100, full=True)
        self.blocks: list[Block] = []

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    def gap(self) -> None:
        """Do nothing: the page has CSS margins."""

    def heading(self, title: str) -> None:
        """Add the heading of a section."""
        self.blocks.append(Block("", title, is_heading=True))

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Add one line."""
        texts = [(part, "") if isinstance(part, str) else part for part in parts]
        tones = [_TONES[style] for _, style in texts if style in _TONES]
        self.blocks.append(Block("", "".join(text for text, _ in texts), "".join(tones[:1])))

    def block(
        self,
        text: str,
        label: str = "",
        style: str = "",
        most: int = 0,  # noqa: ARG002 - for terminals
        *,
        label_style: str = "",  # noqa: ARG002 - as above
    ) -> None:
        """Add a text of any length."""
        self.blocks.append(Block(label.strip(), text, _TONES.get(style, "")))
