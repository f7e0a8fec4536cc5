"""Scaling: how an autoscaler asks a broker's own server how many tasks there are.

A store's class may have ``scaler_trigger(url, address, tasks)``, which connects to nothing.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class TellsScaler(Protocol):
    """Optional: a store's class whose server can be asked by KEDA."""

    @staticmethod
    def scaler_trigger(url: str, address: str, tasks: int) -> dict[str, Any]:
        """A trigger of KEDA's, ``type`` and ``metadata``, in which no credential stands.

        Args:
            url: Of the broker.
            address: Where KEDA reaches its server; empty for the usual one.
            tasks: How many of them one pod runs at once.

        Raises:
            ConfigError: The URL or the address is wrong.
        """
