"""Commands started without stdin, stdout or stderr, or with a full disk behind one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from agentpipe.brokers import open_store
from agentpipe.cli.guard import GuardedMessages
from agentpipe.cli.output import confirms
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink

COMMAND = f"'{sys.executable}' -m agentpipe"
linux = pytest.mark.skipif(not Path("/dev/full").exists(), reason="it writes to /dev/full")


def in_shell(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with an embedded sink and a broker."""
    monkeypatch.chdir(tmp_path)
    open_sink(Settings.from_env({})).close()
    return tmp_path


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_none_that_is_written_to(folder: Path, closed: str) -> None:
    done = in_shell(folder, f"{COMMAND} tail --from beginning --timeout 0 {closed}")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    program = (
        "import os; from agentpipe.cli.program import _open_missing_streams as open_them;"
        "open_them();"
        "assert [os.readlink(f'/proc/self/fd/{n}') for n in range(3)] == ['/dev/null'] * 3;"
        "assert all(map(os.get_inheritable, range(3)))"
    )
    done = in_shell(Path.cwd(), f"'{sys.executable}' -c \"{program}\" <&- >&- 2>&-")
    assert done.returncode == 0


@linux
def test_a_full_disk_behind_stdout_is_said_in_a_line(folder: Path) -> None:
    done = in_shell(folder, f"{COMMAND} completion bash > /dev/full")
    said = "cannot write the output: No space left on device: make room for it\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert in_shell(folder, f"{COMMAND} completion bash > /dev/full 2>&1").returncode == 1


@linux
@pytest.mark.parametrize("messages", ["/dev/full", "a pipe"])
def test_a_command_goes_on_where_nobody_reads_its_messages(folder: Path, messages: str) -> None:
    open_store(Settings.from_env({})).close()
    with unread() if messages == "a pipe" else Path(messages).open("w") as stderr:
        done = subprocess.run(
            [sys.executable, "-m", "agentpipe", "purge"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=False,
        )
    assert (done.returncode, done.stdout[:8]) == (0, b"0 tasks ")


def unread() -> TextIO:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_a_question_that_nobody_reads_is_still_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends in no line, so only the flush writes it."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with unread() as behind:
        monkeypatch.setattr("sys.stderr", GuardedMessages(behind))
        assert confirms("Forget it?")


def test_messages_go_on_once_their_reader_has_made_room() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb") as read, os.fdopen(writer, "w", 1) as behind:
        guard = GuardedMessages(behind)
        os.write(writer, b"." * 2**20)
        with pytest.raises(BlockingIOError):
            os.write(writer, b".")
        guard.write("late\n")
        os.read(read.fileno(), 2**20)
        guard.write("heard\n")
        assert os.read(read.fileno(), 2**20).endswith(b"heard\n")


@linux
def test_a_folder_that_was_removed_is_said_in_a_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = in_shell(gone, f"rmdir '{gone}'; {COMMAND} status")
    said = "the current folder was removed: change to one that there is\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert not os.path.lexists(gone)


def test_ctrl_c_while_the_program_still_loads_is_no_traceback(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'agentpipe.cli.parser': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "from agentpipe.cli import main\n"
        "sys.exit(main(['--version']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
