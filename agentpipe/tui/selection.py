"""Selection: which rows of the main table are shown, and which one is selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.monitoring.rows import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.monitoring.history import FleetHistory
    from agentpipe.monitoring.rows import Row
    from agentpipe.tui.state import ScreenState


def screen_rows(history: FleetHistory, state: ScreenState) -> list[Row]:
    """The rows that match the user's filter, in the user's sort order."""
    return rows_of(history, expanded=state.expanded, words=state.filter, sort=state.sort)


def selected_index(rows: Sequence[Row], state: ScreenState) -> int:
    """The index of the selected row; 0 without rows."""
    for index, row in enumerate(rows):
        if row.key == state.selected:
            return index
    return max(0, min(state.last_index, len(rows) - 1))
