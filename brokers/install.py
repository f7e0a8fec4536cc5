"""Finds a server's programs, and installs missing ones."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from brokers.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POM = Path(__file__).parent / "kafka" / "pom.xml"
# Debian's RabbitMQ itself; the wrapper on the PATH requires its own user.
_FIRST = "/usr/lib/rabbitmq/bin"
_LAST = "/usr/local/sbin:/usr/sbin:/sbin"
_JAVA = 17
_JAVA_PACKAGES = ("openjdk-17-jre-headless", "openjdk-21-jre-headless", "default-jre-headless")
_TIMEOUT_S = 900.0
_LAST_LINES = 5


class NotInstalledError(LaunchError):
    """A program is missing and cannot be installed."""


def find(name: str, environ: Mapping[str, str]) -> str | None:
    """The path of a program, also in the administrators' folders."""
    return shutil.which(name, path=f"{_FIRST}:{environ.get('PATH', '/usr/bin:/bin')}:{_LAST}")


def program(name: str, package: str, environ: Mapping[str, str]) -> str:
    """The path of a program, installed from Debian's ``package`` if it is missing.

    Raises:
        NotInstalledError: With the remedy.
    """
    found = find(name, environ)
    if not found:
        with _lock(environ):
            found = find(name, environ) or _install(name, [package], environ)
    return found


def java_program(environ: Mapping[str, str]) -> str:
    """The path of a Java that can run Kafka.

    Raises:
        NotInstalledError: With the remedy.
    """
    found = _known_java(environ)
    if not found:
        with _lock(environ):
            found = _known_java(environ) or _install("java", _JAVA_PACKAGES, environ)
    return _known_java(environ) or found


def kafka_jars(java: str, environ: Mapping[str, str]) -> Path:
    """The folder with Kafka's libraries, fetched once by Maven on ``java``.

    Raises:
        NotInstalledError: With the remedy.
    """
    folder = _cache(environ) / f"kafka-{kafka_version()}"
    if not folder.exists():
        maven = program("mvn", "maven", environ)
        with _lock(environ):
            if not folder.exists():
                _fetch(maven, java, folder, environ)
    return folder


def kafka_version() -> str:
    """The Kafka version in pom.xml."""
    named = re.search(r"<kafka\.version>(.+)</kafka\.version>", POM.read_text())
    assert named
    return named[1]


def apt_command(environ: Mapping[str, str], *, root: bool) -> list[str] | None:
    """The ``apt-get`` command; None if it cannot be used."""
    apt = find("apt-get", environ)
    if not apt:
        return None
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", apt, "-o", "DPkg::Lock::Timeout=300"]
    if root:
        return quiet
    sudo = find("sudo", environ)
    if sudo and _run([sudo, "-n", "true"], environ).returncode == 0:
        return [sudo, "-n", *quiet]
    return None


def _install(name: str, packages: Sequence[str], environ: Mapping[str, str]) -> str:
    """Install the first available package; return the path of its program."""
    apt = apt_command(environ, root=os.geteuid() == 0)
    if not apt:
        raise NotInstalledError(
            f"{name} is not installed, and installing it takes root: "
            f"`sudo apt-get install {packages[0]}`, or what your system has in its place"
        )
    _say(f"installing {packages[0]} ...")
    done = _apt_install(apt, packages, environ)
    found = find(name, environ)
    if done.returncode or not found:
        words = "\n".join(done.stdout.splitlines()[-_LAST_LINES:])
        raise NotInstalledError(f"{packages[0]} could not be installed:\n{words}")
    return found


def _apt_install(
    apt: list[str], packages: Sequence[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    install = [*apt, "install", "--yes", "--no-install-recommends"]
    for refresh in (False, True):
        if refresh:  # The package lists are old or missing.
            _run([*apt, "update"], environ)
        for package in packages:
            done = _run([*install, package], environ)
            if done.returncode == 0:
                _disable_service(package, apt, environ)
                return done
    return done


def _disable_service(package: str, apt: list[str], environ: Mapping[str, str]) -> None:
    """Stop the service that Debian starts on installation, on the port that ours needs."""
    if Path("/run/systemd/system").is_dir() and package.endswith("-server"):
        sudo = apt[: apt.index("env")]
        _run([*sudo, "systemctl", "disable", "--now", package], environ)


def _known_java(environ: Mapping[str, str]) -> str | None:
    home = environ.get("JAVA_HOME")
    known = [f"{home}/bin/java"] if home else []
    known += [found] if (found := find("java", environ)) else []
    known += sorted(str(path) for path in Path("/usr/lib/jvm").glob("*/bin/java"))
    return next((path for path in known if _java_version(path, environ) >= _JAVA), None)


def _java_version(path: str, environ: Mapping[str, str]) -> int:
    if not Path(path).exists():
        return 0
    said = re.search(r'version "(\d+)', _run([path, "-version"], environ).stdout)
    return int(said[1]) if said else 0


def _fetch(maven: str, java: str, folder: Path, environ: Mapping[str, str]) -> None:
    _say(f"fetching Kafka {kafka_version()} from Maven's repository ...")
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
    with_java = {**environ, "JAVA_HOME": str(Path(java).resolve().parents[1])}
    done = _run([maven, "-q", "-B", "-f", str(POM), *goal], with_java)
    if done.returncode:
        words = "\n".join(done.stdout.splitlines()[:_LAST_LINES])
        raise NotInstalledError(f"Kafka could not be fetched:\n{words}")
    fresh.rename(folder)


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output; a timeout is a failure."""
    try:
        return subprocess.run(
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, f"timed out after {_TIMEOUT_S:g} s")


def _cache(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~"), ".cache"))
    return Path(base).expanduser() / "agentpipe"


@contextmanager
def _lock(environ: Mapping[str, str]) -> Iterator[None]:
    """One process installs at a time; the next one finds the work done."""
    folder = _cache(environ)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "install.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
