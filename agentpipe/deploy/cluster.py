"""Cluster: what the user says about one, checked before any of it stands in a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from agentpipe.deploy.credentials import refuse_bad_variables
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from agentpipe.deploy.keda import Scaling

SCRATCH = "/tmp"  # noqa: S108 - of the pod alone
# A digest is all that an image may have behind an @: a registry's password is no part of a name.
_IMAGE = re.compile(r"[A-Za-z0-9._/:-]+(?:@[A-Za-z0-9+._-]+:[0-9a-fA-F]+)?")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_OBJECT = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_OBJECT = 253


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

    def __post_init__(self) -> None:
        """Refuse what a cluster would not take.

        Raises:
            ConfigError: It does not repeat what may be a credential.
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
