"""A process that hides its memory and environment from its user's other processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from agentpipe.core import process_privacy
from agentpipe.core.process_privacy import harden, is_open
from agentpipe.engines.process.reaper import keep_private
from agentpipe.worker.watch import handover
from tests.other_user import as_other_user, needs_root

linux = pytest.mark.skipif(sys.platform != "linux", reason="it is about /proc")
SECRET = "kanarie"
SCRUBBED = f"""
import ctypes, os
from agentpipe.core.process_privacy import scrub
scrub()
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
data = open("/proc/self/environ", "rb").read()
print({SECRET!r}.encode() in data, b"PATH=/" in data)
print(os.environ["TOKEN"], getenv(b"TOKEN").decode(), os.environ["PLAIN"], os.environ["LONG"][-5:])
"""
RECEIVER = """
import os, sys
from pathlib import Path
from agentpipe.worker.watch.handover import receive
before = Path("/proc/self/environ").read_bytes()
receive()
print(b"kanarie" in before, os.environ["TOKEN"], len(os.environ["LONG"]), flush=True)
print(sorted(name for name in os.environ if name.startswith("AGENTPIPE")), os.environb[b"RAW"])
"""


@linux
def test_the_initial_environment_is_erased_and_stays_known_to_its_own_process() -> None:
    env = {"PATH": "/bin", "TOKEN": SECRET, "PLAIN": f"of {SECRET}", "LONG": SECRET * 9_000}
    done = subprocess.run(
        [sys.executable, "-c", SCRUBBED], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False True", f"{SECRET} {SECRET} of {SECRET} narie"]


@linux
def test_a_child_gets_its_environment_without_showing_it() -> None:
    raw = os.fsdecode(b"\xff=\n")
    env = {
        "PATH": "/bin",
        "TOKEN": SECRET,
        "LONG": "x" * 90_000,
        "RAW": raw,
        "AGENTPIPE_SLOTS": "2",
    }
    process = handover.start([sys.executable, "-c", RECEIVER], env, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    first, second = said.decode().splitlines()
    assert first == f"False {SECRET} 90000"
    assert second == rf"['AGENTPIPE_SLOTS'] {os.fsencode(raw)!r}"


@linux
def test_what_loads_before_a_program_finds_its_variables_but_no_credential(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_privacy, "_of_contexts", {"PLAIN"})
    env = {"CLOCK_SHIFT": "5", "TOKEN": SECRET, "PLAIN": SECRET, "BROKER": f"redis://:{SECRET}@h"}
    read = "print(sorted(open('/proc/self/environ').read().split(chr(0))))"
    process = handover.start([sys.executable, "-c", read], env, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=60)
    assert b"'CLOCK_SHIFT=5'" in said
    assert SECRET.encode() not in said


def test_a_child_that_ends_first_holds_up_nothing() -> None:
    process = handover.start([sys.executable, "-c", ""], {"TOKEN": SECRET})
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("PATH", "/bin", True),
        ("LC_ALL", "C", True),
        ("AGENTPIPE_SLOTS", "2", True),
        ("PYTHONPATH", "/x", True),
        ("AGENTPIPE_BROKER", "redis://:secret@host", False),
        ("AGENTPIPE_API_KEY", "x", False),
        ("PYTHON_TOKEN", "x", False),
        ("DATABASE", "x", False),
        ("MY_PATH", "x", False),
    ],
)
def test_few_variables_may_be_seen(name: str, value: str, *, shown: bool) -> None:
    assert is_open(name, value) is shown


def test_what_was_withdrawn_can_be_passed_on_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_privacy, "_withdrawn", {})
    monkeypatch.setenv("TOKEN", SECRET)
    process_privacy.withdraw(["TOKEN", "PATH", "NONE_SUCH"])
    assert "TOKEN" not in os.environ
    assert "PATH" in os.environ
    assert process_privacy.variables()["TOKEN"] == SECRET


@needs_root
@pytest.mark.parametrize("close", [None, harden, keep_private])
def test_another_process_of_the_same_user_cannot_read_a_private_one(close: object) -> None:
    def attack() -> list[str]:
        ctypes.CDLL(None).prctl(process_privacy.PR_SET_DUMPABLE, 1, 0, 0, 0)
        victim = os.getpid()
        if callable(close):
            close()
        return _read_by_a_child(victim)

    read = as_other_user(attack)
    assert read == ([] if close else ["environ", "maps", "mem"])


def _read_by_a_child(victim: int) -> list[str]:
    """What a forked child can read of this process's /proc files; waits for the child."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        for name in ("environ", "maps", "mem"):
            with suppress(OSError), Path(f"/proc/{victim}/{name}").open("rb"):
                os.write(writing, f"{name} ".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        return stream.read().split()
