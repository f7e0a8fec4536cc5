"""Cluster: the user's description of a cluster, validated before it appears in a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from agentpipe.deploy.credentials import refuse_bad_variables
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.deploy.keda import Scaling

SCRATCH = "/tmp"  # noqa: S108 - private to the pod
# After an @, an image can only have a digest: a registry password does not belong in a name.
_IMAGE = re.compile(r"[A-Za-z0-9._/:-]+(?:@[A-Za-z0-9+._-]+:[0-9a-fA-F]+)?")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_OBJECT = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_OBJECT = 253


@dataclass(frozen=True, slots=True)
class Cluster:
    """The user's description of a cluster.

    Attributes:
        folder: The image's folder with the agent configs and the code.
        secret: The name of the Secret with all credentials.
        variables: Variables that workers read from it, besides those that contexts refer to.
        slots: Concurrent runs per pod; 0 for as many as the agents allow.
        memory_mib: A pod's memory request; 0 for the estimate for runs and MCP servers.
        scaling: Autoscaling by KEDA; None for a fixed number of pods.
    """

    image: str
    folder: str = "/app"
    secret: str = "agentpipe"  # noqa: S105 - a name
    replicas: int = 2
    variables: tuple[str, ...] = ()
    slots: int = 0
    memory_mib: int = 0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        """Reject values that a cluster would not accept.

        Raises:
            ConfigError: A value is invalid; the message does not repeat possible credentials.
        """
        if not _IMAGE.fullmatch(self.image):
            raise ConfigError(
                "--image: write REGISTRY/NAME:TAG, or NAME@sha256:DIGEST, without a password"
            )
        _refuse_folder(self.folder)
        if not _OBJECT.fullmatch(self.secret) or len(self.secret) > _MAX_OBJECT:
            raise ConfigError(
                "--secret: the name of a Secret has small letters, digits, '-' and '.', and begins "
                "and ends with a letter or a digit"
            )
        refuse_bad_variables(self.variables)


def _refuse_folder(folder: str) -> None:
    parts = PurePosixPath(folder).parts
    if not _FOLDER.fullmatch(folder) or {".", ".."} & {*folder.split("/")}:
        raise ConfigError("--image-folder: write an absolute path such as /app, without . and ..")
    if parts[:2] == ("/", SCRATCH[1:]):
        raise ConfigError(f"--image-folder: a pod has an empty folder of its own at {SCRATCH}")
