"""systemd units: a service that runs the workers of one collection file on this machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.deploy.credentials import SERVERS, references_in, refuse_bad_variables
from agentpipe.errors import ConfigError
from agentpipe.worker.times import ENDING_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.config.collection import Collection

# Exit code for a mistake in a file; a restart would not fix it.
_CONFIG_ERROR = 2
_LIMITS = (
    "# A child that runs out of memory is killed without its siblings.",
    "OOMPolicy=continue",
    "LimitNOFILE=65536",
    "LimitCORE=0",
    "TasksMax=infinity",
)
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*|[0-9]+")


@dataclass(frozen=True, slots=True)
class Machine:
    """The user's description of the machine.

    Attributes:
        program: Path of `agentpipe`.
        user: User as whom workers run.
        folder: Folder of the credential files, one per credential; only root needs to read it.
        variables: Variables that workers read from it, besides those that contexts refer to.
    """

    program: str
    user: str = "agentpipe"
    folder: str = "/etc/agentpipe"
    variables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject values that systemd would not accept.

        Raises:
            ConfigError: A value is invalid; the message does not repeat possible credentials.
        """
        for option, path in (("--program", self.program), ("--credentials", self.folder)):
            if not path.startswith("/"):
                raise ConfigError(f"{option} {path!r}: a unit needs an absolute path")
        if not _USER.fullmatch(self.user):
            raise ConfigError("--user: use a name of letters, digits, '_' and '-', or a number")
        refuse_bad_variables(self.variables)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit and its file name."""

    name: str
    text: str


def units(collections: Sequence[Collection], machine: Machine) -> list[Unit]:
    """Return the service of the workers, and one of the schedules if the file has any.

    Raises:
        ConfigError: A path or a name cannot appear in a unit.
    """
    base = f"agentpipe-{re.sub(r'[^A-Za-z0-9_]+', '-', collections[0].name)}"
    file = str(collections[0].file)
    made = [_service(base, "work", file, collections, machine)]
    if any(each.schedule for each in collections):
        name = f"{base}-schedule"
        made.append(_service(name, "schedule run", file, collections, machine))
    return made


def _service(
    name: str, command: str, file: str, collections: Sequence[Collection], machine: Machine
) -> Unit:
    # Evaluating a run can take as long as the run itself.
    grace_s = math.ceil(2 * max(each.time_limit_s for each in collections))
    lines = [
        *_head(command, collections),
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_word(machine.program)} {command} --collection-file {_word(file)}",
        f"WorkingDirectory={_path(str(Path(file).parent))}",
        *_rights(collections, machine),
        f"RuntimeDirectory={name}",
        f"Environment=AGENTPIPE_GRACE_S={grace_s}",
        f"Environment=AGENTPIPE_HEARTBEAT_FILE=/run/{name}/heartbeat",
        *_credentials(name, collections, machine),
        *_end(grace_s),
        *_LIMITS,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return Unit(f"{name}.service", "\n".join([*lines, ""]))


def _head(command: str, collections: Sequence[Collection]) -> list[str]:
    names = ", ".join(each.name for each in collections)
    return [
        "[Unit]",
        f"Description=agentpipe {command} for {names}",
        "After=network-online.target",
        "Wants=network-online.target",
        "StartLimitIntervalSec=0",
    ]


def _end(grace_s: int) -> list[str]:
    """How the service is stopped, and when it is started again."""
    return [
        "# SIGTERM goes to the supervisor only. After the runs' grace period the rest is killed.",
        "KillMode=mixed",
        f"TimeoutStopSec={math.ceil(grace_s + ENDING_S)}",
        "# Drained workers exit with 0 and are not restarted.",
        "Restart=on-failure",
        "RestartSec=5",
        f"RestartPreventExitStatus={_CONFIG_ERROR}",
    ]


def _rights(collections: Sequence[Collection], machine: Machine) -> list[str]:
    """Run as root if agents run as other users: agentpipe drops its privileges for them."""
    if any(each.user for each in collections):
        return ["# Collections name a user for what agents start: only root can switch users."]
    return [
        f"User={_path(machine.user)}",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "ProtectSystem=full",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        "RestrictSUIDSGID=yes",
    ]


def _credentials(name: str, collections: Sequence[Collection], machine: Machine) -> list[str]:
    """Load root's files for this service only; agentpipe reads its variables from them."""
    found = list(map(references_in, collections))
    here = f"/run/credentials/{name}.service/"
    keys = {*SERVERS, *machine.variables, *(it for each in found for it in each.variables)}
    keys |= {it.removeprefix(here) for each in found for it in each.files if it.startswith(here)}
    return [f"LoadCredential={key}:{_path(machine.folder)}/{key}" for key in sorted(keys)]


def _word(text: str) -> str:
    """Format one argument of ``ExecStart``."""
    plain = _path(text)
    return plain if re.fullmatch(r"[\w%/.+:@-]+", plain, re.ASCII) else f'"{plain}"'


def _path(text: str) -> str:
    """Return a value without characters that are special to systemd."""
    if re.search(r"[\x00-\x1f\x7f\"'\\$;]", text):
        raise ConfigError(f"{text!r} cannot stand in a unit: use a path of plain characters")
    return text.replace("%", "%%")
