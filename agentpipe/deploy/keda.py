"""A KEDA ScaledObject: scales a collection's pods by its tasks.

It counts ``agentpipe_tasks``, which requires a running `agentpipe metrics`, or asks the broker's
server for the number of unsettled tasks of all collections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Trigger = Literal["prometheus", "metrics-api", "redis"]
TRIGGERS: tuple[Trigger, ...] = ("prometheus", "metrics-api", "redis")
_USUAL = {
    "prometheus": "http://prometheus-server",
    "metrics-api": "http://agentpipe-metrics:9808/metrics",
}
_POLL_S, _COOLDOWN_S = 15, 300
# Text before or after these characters can be a credential.
_NOT_PLAIN = re.compile(r"[@?#\s\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a Deployment is scaled.

    Attributes:
        address: URL of Prometheus or of the exporter; empty for the default.
        server_trigger: Returns the trigger that queries the broker's server, given the slots per
            pod; only for ``redis``.
    """

    trigger: Trigger = "prometheus"
    address: str = ""
    min_replicas: int = 0
    max_replicas: int = 10
    server_trigger: Callable[[int], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        """Reject an address that would put a password into a manifest.

        Raises:
            ConfigError: The address has a user, a password or parameters.
        """
        if _NOT_PLAIN.search(self.address):
            raise ConfigError(
                "--scaler-address stands in the manifest: give it without a password and "
                "without parameters"
            )


def scaled_object(
    metadata: Mapping[str, Any], collection: str, slots: int, scaling: Scaling
) -> dict[str, Any]:
    """Return the ScaledObject of a Deployment whose pods each run ``slots`` tasks at once."""
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
            "triggers": [_trigger(collection, slots, scaling)],
        },
    }


def _trigger(collection: str, slots: int, scaling: Scaling) -> dict[str, Any]:
    if scaling.server_trigger is not None:
        return scaling.server_trigger(slots)
    address = scaling.address or _USUAL[scaling.trigger]
    if scaling.trigger == "metrics-api":
        # One line of the exporter: waiting tasks only. `drain` lets a pod finish its running tasks.
        name = f'agentpipe_tasks{{collection="{collection}",state="waiting"}}'
        fields = {"url": address, "format": "prometheus", "valueLocation": name}
        return {"type": "metrics-api", "metadata": {**fields, "targetValue": str(slots)}}
    selector = f'collection="{collection}",state=~"waiting|running"'
    query = f"sum(agentpipe_tasks{{{selector}}})"
    fields = {"serverAddress": address, "query": query, "threshold": str(slots)}
    return {"type": "prometheus", "metadata": fields}
