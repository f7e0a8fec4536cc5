"""The machine of a bench, and the versions of everything that it compares. No host names."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import orjson

from bench.peer import PYTHON
from bench.rivals import ARQ_PYTHON, RIVALS_PYTHON
from brokers.install import kafka_version

OURS = ("dramatiq-agentpipe", "dramatiq", "taskiq", "taskiq-redis", "redis", "pika", "kafka-python")
# Packages of environments that are not ours.
THEIRS = {
    RIVALS_PYTHON: ("celery", "saq", "streaq"),
    ARQ_PYTHON: ("arq",),
    str(PYTHON): ("mcpuniverse",),
}
ASK = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


def machine() -> dict[str, str]:
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    release = re.match(r"[\d.]+", platform.release())
    found = {
        "processors": str(os.cpu_count()),
        "model": model[1].strip() if model else platform.machine(),
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "",
        # Without the vendor's suffix.
        "kernel": f"{platform.system()} {release[0] if release else ''}".strip(),
    }
    return {name: value for name, value in found.items() if value}


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    found |= {"Redis": _of_redis(), "RabbitMQ": _of_rabbitmq(), "Kafka": kafka_version()}
    found |= {name: _ours(name) for name in OURS}
    for python, names in THEIRS.items():
        found |= _theirs(python, names)
    return {name: number for name, number in found.items() if number}


def _ours(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _theirs(python: str, names: tuple[str, ...]) -> dict[str, str]:
    if not Path(python).exists() or python == sys.executable:
        return {}
    found: dict[str, str] = orjson.loads(_output(python, "-c", ASK, *names) or "{}")
    return found


def _of_redis() -> str:
    found = re.search(r"v=(\S+)", _output("redis-server", "--version"))
    return found[1] if found else ""


def _of_rabbitmq() -> str:
    return _output("rabbitmqctl", "version").strip()


def _output(program: str, *arguments: str) -> str:
    """The program's output; empty if it is missing or fails."""
    if not (found := shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin")):
        return ""
    command = [found, *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return ended.stdout.decode(errors="replace") if not ended.returncode else ""
