"""Each test has a scratch project of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def broker_url(tmp_path: Path) -> str:
    """Where tasks wait; one day a parameter."""
    return f"sqlite:///{tmp_path}/store/broker.db"


@pytest.fixture
def sink_url(tmp_path: Path) -> str:
    """Where results go; one day a parameter."""
    return f"sqlite:///{tmp_path}/stream/results.db"


@pytest.fixture
def project(tmp_path: Path, broker_url: str, sink_url: str) -> Iterator[Project]:
    """A scratch project; whatever was started in it is killed at the end."""
    made = Project(tmp_path, broker_url, sink_url)
    try:
        yield made
    finally:
        made.show_logs()
        made.close()
