"""Finds the programs of a server, and installs what is missing."""

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
# Debian's RabbitMQ itself; what it puts on the PATH insists on a user of its own.
_FIRST = "/usr/lib/rabbitmq/bin"
_LAST = "/usr/local/sbin:/usr/sbin:/sbin"
_JAVA = 17
_JAVA_PACKAGES = ("openjdk-17-jre-headless", "openjdk-21-jre-headless", "default-jre-headless")
_TIMEOUT_S = 900.0
_LAST_LINES = 5


class NotInstalledError(LaunchError):
    """A program is missing, and it could not be installed here."""


def find(name: str, environ: Mapping[str, str]) -> str | None:
    """Where the program ``name`` is, also in the places for administrators."""
    return shutil.which(name, path=f"{_FIRST}:{environ.get('PATH', '/usr/bin:/bin')}:{_LAST}")


def program(name: str, package: str, environ: Mapping[str, str]) -> str:
    """Where the program ``name`` is, from Debian's ``package`` if there was none.

    Raises:
        NotInstalledError: With what to do.
    """
    found = find(name, environ)
    if not found:
        with _lock(environ):
            found = find(name, environ) or _install(name, [package], environ)
    return found


def java_program(environ: Mapping[str, str]) -> str:
    """A Java that runs Kafka.

    Raises:
        NotInstalledError: With what to do.
    """
    found = _known_java(environ)
    if not found:
        with _lock(environ):
            found = _known_java(environ) or _install("java", _JAVA_PACKAGES, environ)
    return _known_java(environ) or found


def kafka_jars(java: str, environ: Mapping[str, str]) -> Path:
    """The folder with Kafka's libraries; Maven, on that ``java``, fetches them once.

    Raises:
        NotInstalledError: With what to do.
    """
    folder = _cache(environ) / f"kafka-{kafka_version()}"
    if not folder.exists():
        maven = program("mvn", "maven", environ)
        with _lock(environ):
            if not folder.exists():
                _fetch(maven, java, folder, environ)
    return folder


def kafka_version() -> str:
    """The version that pom.xml names."""
    named = re.search(r"<kafka\.version>(.+)</kafka\.version>", POM.read_text())
    assert named
    return named[1]


def apt_command(environ: Mapping[str, str], *, root: bool) -> list[str] | None:
    """How ``apt-get`` is called here; None where it cannot be."""
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
    """Install the first of ``packages`` that can be; where its program is then."""
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
        if refresh:  # The lists are old, or there are none yet.
            _run([*apt, "update"], environ)
        for package in packages:
            done = _run([*install, package], environ)
            if done.returncode == 0:
                _disable_service(package, apt, environ)
                return done
    return done


def _disable_service(package: str, apt: list[str], environ: Mapping[str, str]) -> None:
    """Debian starts a server that it installs; we want ours alone, on the same port."""
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
    """Run a command in silence; one that takes too long has failed."""
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
        return subprocess.CompletedProcess(argv, 1, f"no end after {_TIMEOUT_S:g} s")


def _cache(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~"), ".cache"))
    return Path(base).expanduser() / "agentpipe"


@contextmanager
def _lock(environ: Mapping[str, str]) -> Iterator[None]:
    """One at a time; who comes second finds the work done."""
    folder = _cache(environ)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "install.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
