"""A real terminal: a shell in the test's own tmux server."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Self

from brokers.install import program
from tests.servers import required
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT_S = 20.0
# Different from any text that tests type.
PROMPT = "ready> "


class Tmux:
    """Types keys into a shell and reads its screen."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], width: int = 80, height: int = 24
    ) -> None:
        with required():
            self._tmux = program("tmux", "tmux", os.environ)
        self._folder = folder
        self._socket = f"agentpipe-test-{uuid.uuid4().hex[:8]}"
        size = ("-x", str(width), "-y", str(height))
        shell = ("bash", "--norc", "--noprofile", "-i")
        own = {**environ, "PS1": PROMPT, "LANG": "C.UTF-8", "TERM": "screen-256color"}
        self._environ = own
        self.call("-f", "/dev/null", "new-session", "-d", "-c", str(folder), *size, *shell)
        self.see(PROMPT.strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("kill-server")

    def call(self, *args: str) -> str:
        """Run a tmux command and return its output."""
        command = [self._tmux, "-u", "-L", self._socket, *args]
        done = subprocess.run(command, env=self._environ, capture_output=True, check=True)
        return done.stdout.decode()

    def type(self, text: str) -> None:
        """Type the text as keys."""
        self.call("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys, given by tmux's names such as ``Enter`` and ``C-c``."""
        self.call("send-keys", *keys)

    def run(self, *args: str) -> None:
        """Start an agentpipe command in the shell."""
        self.type(" ".join([sys.executable, "-m", "agentpipe", *args]))
        self.press("Enter")

    def shown(self) -> str:
        """The text on the screen."""
        return self.call("capture-pane", "-p")

    def see(self, *words: str, without: tuple[str, ...] = ()) -> str:
        """The screen, once it shows all of ``words`` and none of ``without``."""
        last = ""

        def seen() -> bool:
            nonlocal last
            last = self.shown()
            return all(word in last for word in words) and not any(it in last for it in without)

        try:
            wait_until(seen, TIMEOUT_S, f"{words} but {without}")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{last}") from None
        return last

    def resize(self, width: int, height: int) -> None:
        """Resize the window."""
        self.call("resize-window", "-x", str(width), "-y", str(height))

    def flag(self, name: str) -> str:
        """The value of a tmux variable."""
        return self.call("display-message", "-p", f"#{{{name}}}").strip()

    def state(self) -> tuple[str, ...]:
        """State that a program can leave behind: alternate screen, cursor, wrapping, modes.

        The shell's next program reads the modes, because the shell sets its own while it waits.
        """
        file = self._folder / f"modes-{uuid.uuid4().hex[:8]}"
        self.type(f"stty -g > {file.name}.new && mv {file.name}.new {file.name}")
        self.press("Enter")
        wait_until(file.exists, TIMEOUT_S, "the shell runs the command")
        flags = ("alternate_on", "cursor_flag", "wrap_flag", "mouse_any_flag")
        return (*(self.flag(name) for name in flags), file.read_text())
