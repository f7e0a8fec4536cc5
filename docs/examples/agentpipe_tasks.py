"""A taskset of verifiers whose tasks are those of a file, for `agentpipe serve-env`.

Put it where prime-rl's Python finds it, as a module of this name.
"""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import TYPE_CHECKING, Any

import verifiers.v1 as vf

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FileTaskset"]


class FileData(vf.TaskData):  # type: ignore[misc,unused-ignore]  # verifiers is not always installed
    """One line of the file."""

    question: str
    evaluators: list[dict[str, Any]]
    mcp_servers: list[dict[str, Any]] | None = None
    output_format: dict[str, Any] | None = None


class FileTask(vf.Task[FileData]):  # type: ignore[misc,unused-ignore]
    """What is judged, and how, the environment server knows."""


class FileConfig(vf.TasksetConfig):  # type: ignore[misc,unused-ignore]
    """`path` in prime-rl's config."""

    path: Path


class FileTaskset(vf.Taskset[FileTask, FileConfig]):  # type: ignore[misc,unused-ignore]
    """A line of the file is a task, in JSON."""

    def load(self) -> Iterator[FileTask]:
        """Each task."""
        with self.config.path.open() as lines:
            for line in lines:
                yield FileTask(FileData(**json.loads(line)), self.config.task)
