"""Account: the user of the machine as whom a collection's programs run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from agentpipe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the groups that a login would give.

    Attributes:
        uid: Never root's.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def ids(self) -> dict[str, Any]:
        """What a process needs to become this user, as JSON."""
        return {"uid": self.uid, "gid": self.gid, "groups": list(self.groups)}

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that describe the user."""
        return {"HOME": self.home}


def account_of(user: str) -> Account:
    """Return the account of a user name or uid.

    Raises:
        ConfigError: The user does not exist or is root, or this process cannot start programs as
            other users.
    """
    import pwd  # Not available on every system, and few collections need it.

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        raise ConfigError(
            f"no user {user!r:.100} on this machine: create it where the workers run, or correct it"
        ) from None
    if entry.pw_uid == 0:
        raise ConfigError(f"{user!r} has all rights: name a user with few")
    if os.geteuid() != 0:
        raise ConfigError(
            f"only root starts programs as {user!r}: run the workers as root, or remove the key"
        )
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def variables_of(account: Account | None) -> dict[str, str]:
    """Return the variables of an account; none without an account."""
    return {} if account is None else account.variables
