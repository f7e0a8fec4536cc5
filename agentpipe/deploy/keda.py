"""A ScaledObject of KEDA's: as many pods as the tasks of a collection need.

It counts ``agentpipe_tasks``, so that `agentpipe metrics` has to run, or the hash of a Redis that
holds all unsettled tasks of the broker, of all collections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

Trigger = Literal["prometheus", "metrics-api", "redis"]
TRIGGERS: tuple[Trigger, ...] = ("prometheus", "metrics-api", "redis")
_USUAL = {
    "prometheus": "http://prometheus-server",
    "metrics-api": "http://agentpipe-metrics:9808/metrics",
    "redis": "redis:6379",
}
_POLL_S, _COOLDOWN_S = 15, 300


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a Deployment is scaled.

    Attributes:
        address: Of Prometheus, of the exporter, or of Redis as ``host:port``; empty for the
            usual one.
        prefix: Of the keys in Redis.
        database: Its number in Redis.
        tls: Whether Redis wants TLS.
    """

    trigger: Trigger = "prometheus"
    address: str = ""
    min_replicas: int = 0
    max_replicas: int = 10
    prefix: str = "agentpipe"
    database: int = 0
    tls: bool = False

    def __post_init__(self) -> None:
        """Refuse what would put a password into a manifest.

        Raises:
            ConfigError: The address has a user or a password.
        """
        if "@" in self.address:
            raise ConfigError("--scaler-address stands in the manifest: give it without a password")


def scaled_object(
    metadata: Mapping[str, Any], collection: str, slots: int, scaling: Scaling
) -> dict[str, Any]:
    """That of the Deployment with this metadata, of which each pod runs ``slots`` tasks at once."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"name": metadata["name"]},
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "pollingInterval": _POLL_S,
            "cooldownPeriod": _COOLDOWN_S,
            "triggers": [_trigger(collection, str(slots), scaling)],
        },
    }


def _trigger(collection: str, slots: str, scaling: Scaling) -> dict[str, Any]:
    address = scaling.address or _USUAL[scaling.trigger]
    if scaling.trigger == "redis":
        return {
            "type": "redis",
            "metadata": {
                "address": address,
                "listName": f"{{{scaling.prefix}}}:tasks",
                "listLength": slots,
                "databaseIndex": str(scaling.database),
                "enableTLS": "true" if scaling.tls else "false",
            },
        }
    if scaling.trigger == "metrics-api":
        # One line of the exporter's text; running tasks keep their pods by `drain`.
        name = f'agentpipe_tasks{{collection="{collection}",state="waiting"}}'
        fields = {"url": address, "format": "prometheus", "valueLocation": name}
        return {"type": "metrics-api", "metadata": {**fields, "targetValue": slots}}
    selector = f'collection="{collection}",state=~"waiting|running"'
    query = f"sum(agentpipe_tasks{{{selector}}})"
    fields = {"serverAddress": address, "query": query, "threshold": slots}
    return {"type": "prometheus", "metadata": fields}
