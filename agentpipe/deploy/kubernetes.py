"""Manifests for Kubernetes: per collection a ConfigMap, a Deployment and a disruption budget."""

from __future__ import annotations

import hashlib
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import dropwhile, pairwise, takewhile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from agentpipe.deploy.credentials import credentials_of, refuse_known_keys
from agentpipe.deploy.keda import scaled_object
from agentpipe.deploy.sizes import HEADROOM, memory_mib, slots_of
from agentpipe.errors import ConfigError
from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.deploy.credentials import Credentials
    from agentpipe.deploy.keda import Scaling

# With the prefix and the digest below the 63 characters of a label.
_MAX_NAME = 40
_PREFIX = "agentpipe-"
_SERVERS = ("AGENTPIPE_BROKER", "AGENTPIPE_SINK")
# Beyond the grace: the supervisor settles, drains the outbox and waits for its workers.
_ENDING_S = 6 * SHUTDOWN_S
_USER_ID = 10_001
_HEARTBEAT_FILE = "/tmp/agentpipe-heartbeat"  # noqa: S108 - of the pod alone
_DRAIN = ("agentpipe", "drain", "--here", "--wait")
_CPU = "250m"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the user says about the cluster.

    Attributes:
        folder: Of the image: where the agent configs and the code are.
        secret: The name of the Secret with all credentials.
        variables: What workers take from it beside what contexts refer to.
        slots: Runs at once in a pod; 0 for as many as the agents allow.
        memory_mib: What a pod asks for; 0 for what runs and MCP servers need by themselves.
        scaling: By KEDA; None for a fixed number of pods.
    """

    image: str
    folder: str = "/app"
    secret: str = "agentpipe"  # noqa: S105 - a name
    replicas: int = 2
    variables: tuple[str, ...] = ()
    slots: int = 0
    memory_mib: int = 0
    scaling: Scaling | None = None


def manifests(collections: Sequence[Collection], cluster: Cluster) -> list[Manifest]:
    """Those of all collections of one file.

    Raises:
        ConfigError: A credential is in the file itself.
    """
    texts = _documents(collections)
    return [it for each in collections for it in _of(each, texts[each.name], cluster)]


def as_yaml(made: Sequence[Manifest]) -> str:
    """A document each."""
    return yaml.dump_all(made, Dumper=_Plain, sort_keys=False, allow_unicode=False)


class _Plain(yaml.SafeDumper):
    """Repeats what is there twice: not all tools for manifests know aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def name_of(collection: str) -> str:
    """A DNS label for it, which no other collection has."""
    plain = re.sub(r"[^a-z0-9]+", "-", collection.lower()).strip("-")[:_MAX_NAME].strip("-")
    if plain == collection:
        return _PREFIX + plain
    digest = hashlib.blake2b(collection.encode(), digest_size=4).hexdigest()
    return _PREFIX + "-".join(filter(None, (plain, digest)))


def _documents(collections: Sequence[Collection]) -> dict[str, str]:
    """The text of each collection: a Deployment serves one of the file."""
    lines = collections[0].file.read_text(encoding="utf-8").splitlines()
    starts = sorted(each.line for each in collections)
    ends = dict(pairwise([*starts, len(lines) + 1]))
    return {
        each.name: _document(lines[each.line - 1 : ends[each.line] - 1]) for each in collections
    }


def _document(lines: Sequence[str]) -> str:
    """Of what begins here the first document, without its marks."""
    is_mark = re.compile(r"(---|\.\.\.)\s*(#.*)?").fullmatch
    own = takewhile(lambda line: not is_mark(line), dropwhile(is_mark, lines))
    return "\n".join([*own, ""])


def _of(collection: Collection, text: str, cluster: Cluster) -> Iterator[Manifest]:
    name, credentials = name_of(collection.name), credentials_of(collection)
    refuse_known_keys(collection, text)
    labels = {"app.kubernetes.io/name": "agentpipe", "app.kubernetes.io/instance": name}
    metadata = {"name": name, "labels": labels}
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"collection.yaml": text},
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            # Where KEDA scales, an update must not set the number back.
            **({"replicas": cluster.replicas} if cluster.scaling is None else {}),
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {
                    "labels": labels,
                    # A changed collection begins a rolling update.
                    "annotations": {
                        "agentpipe/collection": hashlib.sha256(text.encode()).hexdigest()
                    },
                },
                "spec": _pod(collection, credentials, labels, cluster),
            },
        },
    }
    yield {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }
    if cluster.scaling is not None:
        slots = cluster.slots or slots_of(collection)
        yield scaled_object(metadata, collection.name, slots, cluster.scaling)


def _pod(
    collection: Collection, credentials: Credentials, labels: Manifest, cluster: Cluster
) -> Manifest:
    # The evaluation of a run may take as long again.
    grace_s = math.ceil(2 * collection.time_limit_s)
    folders = _folders(credentials)
    return {
        "terminationGracePeriodSeconds": math.ceil(grace_s + _ENDING_S),
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER_ID,
            "runAsGroup": _USER_ID,
            "fsGroup": _USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "containers": [_container(collection, grace_s, credentials, cluster)],
        "volumes": [
            {"name": "collection", "configMap": {"name": name_of(collection.name)}},
            {"name": "scratch", "emptyDir": {}},
            *_secret_volumes(folders, cluster),
        ],
    }


def _container(
    collection: Collection, grace_s: int, credentials: Credentials, cluster: Cluster
) -> Manifest:
    file = f"{cluster.folder}/{name_of(collection.name)}.yaml"
    variables = {*_SERVERS, *cluster.variables, *credentials.variables}
    secret_mounts = [
        {"name": f"secret-{index}", "mountPath": folder, "readOnly": True}
        for index, folder in enumerate(_folders(credentials))
    ]
    return {
        "name": "worker",
        "image": cluster.image,
        # One process: it has room for all runs of a pod, and the node's cores are not the pod's.
        "command": [
            *("agentpipe", "work", "--collection-file", file),
            *("--processes", "1", "--slots", str(cluster.slots or slots_of(collection))),
            *("--log-format", "json"),
        ],
        "workingDir": cluster.folder,
        "env": [
            {"name": "AGENTPIPE_GRACE_S", "value": str(grace_s)},
            {"name": "AGENTPIPE_HEARTBEAT_FILE", "value": _HEARTBEAT_FILE},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - of the pod alone
            *(_from_secret(each, cluster) for each in sorted(variables)),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **_probes(),
        # All that a drain does SIGTERM does after it; but a drain that ends leaves nothing to end.
        "lifecycle": {
            "preStop": {"exec": {"command": [*_DRAIN, "--timeout", str(grace_s)]}},
        },
        "resources": _resources(collection, cluster),
        "volumeMounts": [
            # Beside the agent config of the image, which it names.
            {
                "name": "collection",
                "mountPath": file,
                "subPath": "collection.yaml",
                "readOnly": True,
            },
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - of the pod alone
            *secret_mounts,
        ],
    }


def _probes() -> Manifest:
    live = {"exec": {"command": ["agentpipe", "probe", "live"]}, "timeoutSeconds": 10}
    ready = {"exec": {"command": ["agentpipe", "probe", "ready"]}, "timeoutSeconds": 15}
    return {
        "startupProbe": {**live, "periodSeconds": 5, "failureThreshold": 24},
        "livenessProbe": {**live, "periodSeconds": 30, "failureThreshold": 3},
        "readinessProbe": {**ready, "periodSeconds": 30, "failureThreshold": 2},
    }


def _resources(collection: Collection, cluster: Cluster) -> Manifest:
    """Processor time has no limit: a run that is slowed down is a run that is paid for longer."""
    slots = cluster.slots or slots_of(collection)
    asked = cluster.memory_mib or memory_mib(collection, slots)
    return {
        "requests": {"cpu": _CPU, "memory": f"{asked}Mi"},
        "limits": {"memory": f"{HEADROOM * asked}Mi"},
    }


def _from_secret(variable: str, cluster: Cluster) -> Manifest:
    reference = {"name": cluster.secret, "key": variable}
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def _folders(credentials: Credentials) -> dict[str, list[str]]:
    """The names of the files in each folder."""
    found = defaultdict(list)
    for path in map(PurePosixPath, credentials.files):
        found[str(path.parent)].append(path.name)
    if found.keys() & {"/", "/tmp"}:  # noqa: S108 - refused
        raise ConfigError("files of credentials need a folder of their own: no mount at / or /tmp")
    return dict(found)


def _secret_volumes(folders: dict[str, list[str]], cluster: Cluster) -> list[Manifest]:
    return [
        {
            "name": f"secret-{index}",
            "secret": {
                "secretName": cluster.secret,
                "defaultMode": 0o440,
                "items": [{"key": name, "path": name} for name in names],
            },
        }
        for index, names in enumerate(folders.values())
    ]
