"""Executes a Dockerfile without a container engine, then becomes the image's process.

``unshare --mount --pid --fork python scratch_root.py DOCKERFILE CONTEXT FOLDER VOLUME COMMAND...``
as root. The base image is this machine with a new venv; changes of the steps go to FOLDER.
VOLUME is a folder of this machine that the process sees at the same path.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction with its argument; continued lines are joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in whole)]


class Image:
    """The state of the image after the steps so far."""

    def __init__(self, context: Path, root: Path) -> None:
        self.context, self.root = context, root
        self.folder, self.user = "/", 0
        self.environ = {
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
            "PATH": "/usr/local/image/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        self.entry: list[str] = []
        self.command: list[str] = []

    def carry_out(self, name: str, argument: str) -> None:
        """Execute one instruction."""
        getattr(self, f"_{name.lower()}")(argument)

    def _from(self, _: str) -> None:
        for above in Path(sys.executable).resolve().parents:  # All users of an image need Python.
            place = self.root / above.relative_to("/")
            place.chmod(place.stat().st_mode | 0o055)
        self._run(f"{shlex.quote(sys.executable)} -m venv /usr/local/image")

    def _copy(self, argument: str) -> None:
        *sources, target = shlex.split(argument)
        place = self.root / target.lstrip("/")
        for source in sources:
            into = place / source if target.endswith("/") else place
            into.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", str(self.context / source), str(into)], check=True)

    def _run(self, argument: str) -> None:
        command = ["chroot", str(self.root), "/bin/sh", "-c", f"cd {self.folder} && {argument}"]
        subprocess.run(command, env=self.environ, check=True, stdout=sys.stderr)

    def _workdir(self, argument: str) -> None:
        self.folder = argument

    def _user(self, argument: str) -> None:
        self.user = int(argument.partition(":")[0])

    def _env(self, argument: str) -> None:
        for each in shlex.split(argument):
            name, _, value = each.partition("=")
            self.environ[name] = value

    def _stopsignal(self, argument: str) -> None:
        assert argument == "SIGTERM"

    def _healthcheck(self, argument: str) -> None:
        assert json.loads(argument.partition("CMD ")[2])

    def _entrypoint(self, argument: str) -> None:
        self.entry = json.loads(argument)

    def _cmd(self, argument: str) -> None:
        self.command = json.loads(argument)

    def start(self, command: list[str]) -> None:
        """Replace this process with the image's process 1."""
        given = {name: it for name, it in os.environ.items() if name.startswith("AGENT")}
        environ = {**self.environ, **given}
        os.chroot(self.root)
        os.chdir(self.folder)
        os.setgroups([])
        os.setgid(self.user)
        os.setuid(self.user)
        line = [*self.entry, *(command or self.command)]
        os.execvpe(line[0], line, environ)


def main() -> None:
    """Build the image and start its process."""
    os.umask(0o022)
    dockerfile, context, folder, volume = map(Path, sys.argv[1:5])
    root, upper, work = (folder / name for name in ("root", "upper", "work"))
    for each in (root, upper, work):
        each.mkdir(exist_ok=True)
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    for options in (
        ["--make-rprivate", "/"],
        ["-t", "overlay", "overlay", "-o", layers, str(root)],
        ["-t", "proc", "proc", str(root / "proc")],
        ["-t", "tmpfs", "tmpfs", str(root / "tmp")],
        ["--rbind", "/dev", str(root / "dev")],
    ):
        subprocess.run(["mount", *options], check=True)
    inside = root / volume.relative_to("/")
    inside.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(volume), str(inside)], check=True)
    image = Image(context, root)
    for name, argument in instructions(dockerfile.read_text()):
        image.carry_out(name, argument)
    image.start(sys.argv[5:])


if __name__ == "__main__":
    main()
