"""Pods: for workers, and for schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from agentpipe.deploy.cluster import SCRATCH
from agentpipe.deploy.credentials import SERVERS
from agentpipe.deploy.mounts import secret_mounts, secret_volumes
from agentpipe.deploy.sizes import HEADROOM, WORKER_MIB, memory_mib, slots_of
from agentpipe.worker.times import ENDING_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentpipe.config.collection import Collection
    from agentpipe.deploy.cluster import Cluster
    from agentpipe.deploy.credentials import Credentials

    Manifest = dict[str, Any]

_USER_ID = 10_001
_HEARTBEAT_FILE = f"{SCRATCH}/agentpipe-heartbeat"
_DRAIN = ("agentpipe", "drain", "--here", "--wait")
_CPU, _SMALL_CPU = "250m", "50m"
_SCRATCH_MOUNT = {"name": "scratch", "mountPath": SCRATCH}
# Every pod sets these itself, whatever contexts refer to.
_OWN = {"HOME", "HOSTNAME", "PATH", "PWD", "AGENTPIPE_GRACE_S", "AGENTPIPE_HEARTBEAT_FILE"}


def worker_pod(
    collection: Collection, name: str, credentials: Credentials, cluster: Cluster
) -> Manifest:
    """Return a pod with one worker process for a collection; ``name`` is its ConfigMap.

    Raises:
        ConfigError: A credential file cannot be mounted at its path.
    """
    # Evaluating a run can take as long as the run itself.
    grace_s = math.ceil(2 * collection.time_limit_s)
    return {
        **_pod(_worker(collection, name, grace_s, credentials, cluster)),
        "terminationGracePeriodSeconds": math.ceil(grace_s + ENDING_S),
        "volumes": [*_volumes(name), *secret_volumes(credentials, cluster)],
    }


def schedule_pod(name: str, cluster: Cluster) -> Manifest:
    """Return the pod that sends a collection's task files on schedule."""
    file = _file(name, cluster)
    command = ("schedule", "run", "--collection-file", file)
    container = {
        **_container(cluster, command, SERVERS, {"AGENTPIPE_LOG_FORMAT": "json"}),
        "name": "schedule",
        "resources": _asks(_SMALL_CPU, WORKER_MIB),
        "volumeMounts": [_collection_mount(file), _SCRATCH_MOUNT],
    }
    return {**_pod(container), "volumes": _volumes(name)}


def _pod(container: Manifest) -> Manifest:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER_ID,
            "runAsGroup": _USER_ID,
            "fsGroup": _USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }


def _volumes(name: str) -> list[Manifest]:
    return [
        {"name": "collection", "configMap": {"name": name}},
        {"name": "scratch", "emptyDir": {}},
    ]


def _file(name: str, cluster: Cluster) -> str:
    """Return the collection's path, next to the image's agent config, which it names."""
    return f"{cluster.folder}/{name}.yaml"


def _collection_mount(file: str) -> Manifest:
    path = {"mountPath": file, "subPath": "collection.yaml"}
    return {"name": "collection", **path, "readOnly": True}


def _worker(
    collection: Collection, name: str, grace_s: int, credentials: Credentials, cluster: Cluster
) -> Manifest:
    file = _file(name, cluster)
    # One process has room for all runs of a pod; the node's cores are not the pod's.
    slots = cluster.slots or slots_of(collection)
    command = ("work", "--collection-file", file, "--processes", "1", "--slots", str(slots))
    secret = {*SERVERS, *cluster.variables, *credentials.variables}
    plain = {"AGENTPIPE_GRACE_S": str(grace_s), "AGENTPIPE_HEARTBEAT_FILE": _HEARTBEAT_FILE}
    asked = cluster.memory_mib or memory_mib(collection, slots)
    # SIGTERM drains too, but a drain that completes before it leaves nothing to end.
    drain = {"exec": {"command": [*_DRAIN, "--timeout", str(grace_s)]}}
    mounts = secret_mounts(credentials, cluster)
    return {
        **_container(cluster, (*command, "--log-format", "json"), secret, plain),
        "name": "worker",
        **_probes(),
        "lifecycle": {"preStop": drain},
        "resources": _asks(_CPU, asked),
        "volumeMounts": [_collection_mount(file), _SCRATCH_MOUNT, *mounts],
    }


def _container(
    cluster: Cluster, command: tuple[str, ...], secret: Iterable[str], plain: dict[str, str]
) -> Manifest:
    """Return a container with variables from the Secret, and plain ones."""
    return {
        "image": cluster.image,
        "command": ["agentpipe", *command],
        "workingDir": cluster.folder,
        "env": [
            *({"name": name, "value": value} for name, value in plain.items()),
            {"name": "HOME", "value": SCRATCH},
            *(_from_secret(each, cluster) for each in sorted({*secret} - _OWN)),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _probes() -> Manifest:
    live = {"exec": {"command": ["agentpipe", "probe", "live"]}, "timeoutSeconds": 10}
    ready = {"exec": {"command": ["agentpipe", "probe", "ready"]}, "timeoutSeconds": 15}
    return {
        "startupProbe": {**live, "periodSeconds": 5, "failureThreshold": 24},
        "livenessProbe": {**live, "periodSeconds": 30, "failureThreshold": 3},
        "readinessProbe": {**ready, "periodSeconds": 30, "failureThreshold": 2},
    }


def _asks(cpu: str, mib: int) -> Manifest:
    """Return resources without a CPU limit: a slowed-down run is paid for longer."""
    return {
        "requests": {"cpu": cpu, "memory": f"{mib}Mi"},
        "limits": {"memory": f"{HEADROOM * mib}Mi"},
    }


def _from_secret(variable: str, cluster: Cluster) -> Manifest:
    reference = {"name": cluster.secret, "key": variable}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
