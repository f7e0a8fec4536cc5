"""Kubernetes manifests: per collection a ConfigMap, a Deployment and a disruption budget."""

from __future__ import annotations

import hashlib
import re
from itertools import dropwhile, pairwise, takewhile
from typing import TYPE_CHECKING, Any

import yaml

from agentpipe.deploy.credentials import credentials_of, refuse_known_keys
from agentpipe.deploy.keda import scaled_object
from agentpipe.deploy.pods import schedule_pod, worker_pod
from agentpipe.deploy.sizes import slots_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.deploy.cluster import Cluster

    Manifest = dict[str, Any]

# With prefix and digest, this stays below a label's limit of 63 characters.
_MAX_NAME = 40
_PREFIX = "agentpipe-"


def manifests(collections: Sequence[Collection], cluster: Cluster) -> list[Manifest]:
    """Return the manifests of all collections of one file.

    Raises:
        ConfigError: A credential is in the file itself.
    """
    texts = _documents(collections)
    return [it for each in collections for it in _of(each, texts[each.name], cluster)]


def as_yaml(made: Sequence[Manifest]) -> str:
    """Return the manifests as YAML, one document each."""
    return yaml.dump_all(made, Dumper=_Plain, sort_keys=False, allow_unicode=False)


class _Plain(yaml.SafeDumper):
    """Expands aliases: not all tools for manifests support them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def name_of(collection: str) -> str:
    """Return a unique DNS label for a collection."""
    plain = re.sub(r"[^a-z0-9]+", "-", collection.lower()).strip("-")[:_MAX_NAME].strip("-")
    if plain == collection:
        return _PREFIX + plain
    digest = hashlib.blake2b(collection.encode(), digest_size=4).hexdigest()
    return _PREFIX + "-".join(filter(None, (plain, digest)))


def _documents(collections: Sequence[Collection]) -> dict[str, str]:
    """Return the text of each collection: a Deployment serves one collection of the file."""
    lines = collections[0].file.read_text(encoding="utf-8-sig").splitlines()
    starts = sorted(each.line for each in collections)
    ends = dict(pairwise([*starts, len(lines) + 1]))
    return {
        each.name: _document(lines[each.line - 1 : ends[each.line] - 1]) for each in collections
    }


def _document(lines: Sequence[str]) -> str:
    """Return the first document in these lines, without its markers."""
    is_mark = re.compile(r"(---|\.\.\.)\s*(#.*)?").fullmatch
    own = takewhile(lambda line: not is_mark(line), dropwhile(is_mark, lines))
    return "\n".join([*own, ""])


def _of(collection: Collection, text: str, cluster: Cluster) -> Iterator[Manifest]:
    name, credentials = name_of(collection.name), credentials_of(collection)
    refuse_known_keys(collection, text)
    metadata = _metadata(name)
    digest = hashlib.sha256(text.encode()).hexdigest()
    yield _config_map(metadata, text)
    # If KEDA scales, an update must not reset the replica count.
    replicas = cluster.replicas if cluster.scaling is None else None
    pod = worker_pod(collection, name, credentials, cluster)
    yield _deployment(metadata, replicas, digest, pod)
    yield _disruption_budget(metadata)
    if cluster.scaling is not None:
        slots = cluster.slots or slots_of(collection)
        yield scaled_object(metadata, collection.name, slots, cluster.scaling)
    if collection.schedule:
        # Collection names have no spaces, so this name is unique.
        own = _metadata(name_of(f"{collection.name} schedule"))
        yield _deployment(own, 1, digest, schedule_pod(name, cluster))


def _metadata(name: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "agentpipe", "app.kubernetes.io/instance": name}
    return {"name": name, "labels": labels}


def _config_map(metadata: Manifest, text: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"collection.yaml": text},
    }


def _disruption_budget(metadata: Manifest) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": metadata["labels"]}},
    }


def _deployment(metadata: Manifest, replicas: int | None, digest: str, pod: Manifest) -> Manifest:
    labels = metadata["labels"]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "selector": {"matchLabels": labels},
            "template": {
                # A changed collection starts a rolling update.
                "metadata": {"labels": labels, "annotations": {"agentpipe/collection": digest}},
                "spec": {**pod, "topologySpreadConstraints": [spread]},
            },
        },
    }
