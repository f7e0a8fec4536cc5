"""Mounts: credential files in a pod, each from the Secret's key of the same name."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.deploy.cluster import Cluster
    from agentpipe.deploy.credentials import Credentials

    Manifest = dict[str, Any]

# What an image needs to run: do not mount inside _PROGRAMS, or directly at _FOLDERS.
_PROGRAMS = ("bin", "sbin", "lib", "lib64", "usr", "proc", "sys", "dev")
_FOLDERS = ("/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/run")  # noqa: S108 - refused


def secret_mounts(credentials: Credentials, cluster: Cluster) -> list[Manifest]:
    """Return where the Secret's volumes are mounted in the container.

    Raises:
        ConfigError: A mount would hide files of the image, or another mount.
    """
    return [
        {"name": f"secret-{index}", "mountPath": str(folder), "readOnly": True}
        for index, folder in enumerate(_folders(credentials, cluster))
    ]


def secret_volumes(credentials: Credentials, cluster: Cluster) -> list[Manifest]:
    """Return the volumes of ``secret_mounts``."""
    return [
        {
            "name": f"secret-{index}",
            "secret": {
                "secretName": cluster.secret,
                "defaultMode": 0o440,
                "items": [{"key": name, "path": name} for name in names],
            },
        }
        for index, names in enumerate(_folders(credentials, cluster).values())
    ]


def _folders(credentials: Credentials, cluster: Cluster) -> dict[PurePosixPath, list[str]]:
    """Return the file names per folder."""
    found = defaultdict[PurePosixPath, list[str]](list)
    for path in map(PurePosixPath, credentials.files):
        found[path.parent].append(path.name)
    for folder in found:
        _refuse_hiding(folder, cluster)
    names = [name for each in found.values() for name in each]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"files of credentials named {name} are wanted in several folders: the Secret has "
                "one key of that name; name them apart, or refer to one of them"
            )
    for inner, outer in permutations(found, 2):
        if inner.is_relative_to(outer):
            raise ConfigError(
                f"files of credentials in {outer} and in {inner}: a mount within a mount cannot be "
                "made; put them into one folder, or beside each other"
            )
    return dict(found)


def _refuse_hiding(folder: PurePosixPath, cluster: Cluster) -> None:
    """Reject a mount that would hide files of the image."""
    is_systems = str(folder) in _FOLDERS or folder.parts[1:2] in [(it,) for it in _PROGRAMS]
    if is_systems or PurePosixPath(cluster.folder).is_relative_to(folder):
        raise ConfigError(
            f"files of credentials need a folder of their own: no mount at {folder}, which the "
            "image needs; use /run/secrets/agentpipe"
        )
