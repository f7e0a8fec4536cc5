"""Provenance: what a run was sent from and by whom, in a record written by its first sender."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe import __version__
from agentpipe.config.yaml_source import load_documents
from agentpipe.core.hidden_values import hidden, hidden_words
from agentpipe.core.masking import shorten
from agentpipe.core.redaction import Redactor, is_secret
from agentpipe.core.secret_names import is_credential
from agentpipe.core.timestamps import utc
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.core.run_plan import RunPlan

GIT_S = 2.0
MAX_WORD_CHARS = 200
# Reading a larger file would delay the first task.
MAX_DIGESTED_BYTES = 64 * 1024 * 1024
# The repository's own settings must not run programs here.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_NOT_THERE: dict[str, Any] = {"commit": None, "dirty": None}


def record_of(
    collection: Collection,
    run: str,
    words: Sequence[str],
    file: str | None,
    plan: RunPlan | None = None,
    *,
    loop: Mapping[str, Any] | None = None,
) -> bytes:
    """The record of a run that begins now.

    Args:
        collection: The collection it is sent to.
        run: The run's name.
        words: The command line.
        file: The task file; None without one.
        plan: How the tasks are sent.
        loop: The trainer's loop that sends them, if any.
    """
    redactor = Redactor({*_secrets(collection)})
    agent = _documents(collection.config_file)
    record = {
        "run": run,
        "collection": collection.name,
        "begun_at": utc(time.time()),
        "config_hash": collection.fingerprint or None,
        "model": next(_models(agent), None),
        "agentpipe": __version__,
        "git": _git(collection.file.parent),
        "host": socket.gethostname(),
        "user": _user(),
        "command": [shorten(word, MAX_WORD_CHARS, "...") for word in hidden_words(words, redactor)],
        "contexts": len(collection.contexts),
        **({"samples": plan.samples} if plan else {}),
        **({"loop": dict(loop)} if loop else {}),
        "tasks_file": None if file is None else _task_file(file),
        "collection_file": str(collection.file),
        "collection_documents": hidden(_documents(collection.file), redactor),
        "agent_file": str(collection.config_file),
        "agent_documents": hidden(agent, redactor),
    }
    return orjson.dumps(_encodable(record), option=orjson.OPT_NON_STR_KEYS)


def _secrets(collection: Collection) -> Iterator[str]:
    """Values that are masked wherever they occur."""
    contexts = (it for each in collection.contexts for it in each.env.values())
    environ = (value for name, value in os.environ.items() if is_credential(name, value))
    for value in (*contexts, *environ):
        if is_secret(value) and "${" not in value:
            yield value


def _documents(file: Path) -> list[Any]:
    try:
        return [document.data for document in load_documents(file)]
    except ConfigError:
        return []


def _models(documents: Sequence[Any]) -> Iterator[str]:
    for document in documents:
        spec = document.get("spec") if isinstance(document, dict) else None
        config = spec.get("config") if isinstance(spec, dict) else None
        for name in ("model", "model_name"):
            model = config.get(name) if isinstance(config, dict) else None
            if isinstance(model, str):
                yield model


def _git(folder: Path) -> dict[str, Any]:
    """The commit, and whether tracked files differ from it; None if unknown."""
    commit = _asked_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return _NOT_THERE
    changes = _asked_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "dirty": None if changes is None else bool(changes)}


def _asked_git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            [*_GIT, "-C", str(folder), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_S,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # A user id without a name, as in containers.
        return str(os.getuid())


def _task_file(file: str) -> dict[str, Any]:
    path = Path(file)
    try:
        size = path.stat().st_size
        small = path.is_file() and size <= MAX_DIGESTED_BYTES
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if small else None
    except OSError:
        size, digest = None, None
    return {
        "file": "stdin" if file == "-" else str(path.absolute()),
        "bytes": size,
        "sha256": digest,
    }


def _encodable(value: Any) -> Any:
    """Convert integers from YAML and bytes from file names that JSON cannot represent."""
    if isinstance(value, dict):
        return {_encodable(str(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def command_line() -> list[str]:
    """This process's command line, as a user writes it."""
    return ["agentpipe", *sys.argv[1:]]
