"""Scaling: how an autoscaler reads the number of tasks from a broker's server.

A store class can define ``scaler_trigger(url, address, tasks)``; it opens no connection.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TellsScaler(Protocol):
    """A store class whose server KEDA can query. Optional."""

    @staticmethod
    def scaler_trigger(url: str, address: str, tasks: int) -> dict[str, Any]:
        """Return a KEDA trigger (``type`` and ``metadata``) that contains no credentials.

        Args:
            url: The broker's URL.
            address: Where KEDA reaches the server; empty for the default.
            tasks: How many tasks one pod runs at once.

        Raises:
            ConfigError: The URL or the address is invalid.
        """
