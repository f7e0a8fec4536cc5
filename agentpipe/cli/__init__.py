"""The command line: parse, call one function, print.

Each command has a module of its name (``try_`` for the keyword ``try``) with ``add(parser)``, which
adds the arguments, and ``run(args)``, which returns the exit code. Only the module of the command
in use is imported.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn, TextIO

from agentpipe import __version__
from agentpipe.cli.exit_codes import FAILED, INTERRUPTED, OK, USAGE, exit_code
from agentpipe.cli.given_once import GivenOnce
from agentpipe.cli.guard import guarded_output
from agentpipe.cli.help_text import EXIT_CODES, epilog
from agentpipe.core.did_you_mean import nearest
from agentpipe.errors import AgentpipeError

COMMANDS = {
    "send": "submit tasks to a collection",
    "tail": "follow the stream of results",
    "work": "run workers",
    "try": "run one task in this process, without a broker, and show it",
    "status": "show task counts, agents and workers",
    "top": "watch the fleet and its bottleneck in the terminal",
    "metrics": "serve counts, times and states of the fleet to Prometheus",
    "web": "serve pages of the fleet, of runs and of tasks; they only read",
    "check": "validate a collection and its servers, or say how files run",
    "report": "summarize a run or the stream: outcomes, pass rate, throughput",
    "compare": "compare two runs, task by task",
    "export": "write results to a file: JSONL, CSV, Parquet, conversations, inspect_ai",
    "collect": "keep the stream of a server in an archive, a file for searches",
    "archive": "trim or shrink an archive, or tell its size",
    "runs": "list runs, show where one comes from, or forget one",
    "retry": "send the tasks of a run that ended badly again",
    "rescore": "judge the stored answers of a run again, without running agents",
    "dead": "list, show, replay or drop dead letters",
    "schedule": "send task files at their cron times, or list the next times",
    "pause": "pause agents or collections: workers claim none of their tasks",
    "resume": "resume paused agents or collections",
    "drain": "have workers finish what they run, take nothing new, and end",
    "serve-env": "serve a collection to prime-rl as an environment, over ZeroMQ",
    "policy": "show, publish, pause or resume the policy of a trainer",
    "cancel": "cancel waiting and running tasks",
    "rebalance": "give waiting tasks of removed agents to the agents that there are",
    "show": "show a result: question, answer, verdicts, cost and trace",
    "why": "explain where tasks are and why they are not done",
    "purge": "cancel all waiting tasks",
    "init": "create a project: a collection, an agent and tasks, ready to run",
    "doctor": "examine versions, servers, clocks and limits, with advice",
    "chaos": "kill, freeze and cut off scratch workers on your broker and sink, and count results",
    "probe": "say whether the workers of this machine live, or could take tasks",
    "deploy": "print what runs workers elsewhere: manifests of Kubernetes, units of systemd",
    "completion": "print a shell completion script",
    "start-workers": "run workers, with the options of MCP-Universe",
    "consume-outputs": "follow the stream, with the options of MCP-Universe",
    "clean-tasks": "cancel a file's waiting tasks, with the options of MCP-Universe",
}

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main(argv: list[str] | None = None) -> int:
    """Run one command; print its error, if any; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if "_ARGCOMPLETE" in os.environ:
        return _complete(os.environ["COMP_LINE"].split())
    if arguments[:1] == ["help"]:  # Like `git help COMMAND`.
        arguments = [*arguments[1:], "--help"]
    _open_missing_streams()
    _escape_what_the_terminal_lacks()
    try:
        with guarded_output():
            return _run_and_flush(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # The reader closed the pipe, as `| head` does.
        _drop_output(sys.stdout)
        return OK
    except OSError as error:
        if not _is_of_output(error):
            raise
        _drop_output(sys.stdout)
        from agentpipe.cli.common import say

        try:
            say(f"cannot write the output: {error.strerror}: make room for it")
            sys.stderr.flush()
        except OSError:  # stderr is on the same full disk.
            _drop_output(sys.stderr)
        return FAILED


def _open_missing_streams() -> None:
    """Open standard streams that are closed, so that no other file gets their descriptors.

    Otherwise a database could get descriptor 1 or 2, and anything that a library or child prints
    would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - stays open
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _run_and_flush(arguments: list[str]) -> int:
    """Run and flush, so that a closed pipe raises here and not when Python exits."""
    try:
        return _run(arguments)
    finally:
        sys.stdout.flush()


def _drop_output(stream: TextIO) -> None:
    """Discard what is still buffered; Python would fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _run(arguments: list[str]) -> int:
    try:
        if "CREDENTIALS_DIRECTORY" in os.environ:
            _take_credentials()
        args = _parser(arguments).parse_args(arguments)
        return int(args.run(args))
    except AgentpipeError as error:
        from agentpipe.cli.common import say

        say(*error.lines)
        return exit_code(error)
    except Exception as error:
        if _is_of_output(error):
            raise
        if said := _unfit(error, arguments):
            from agentpipe.cli.common import say

            say(said)
            return USAGE
        import traceback

        traceback.print_exc()
        return FAILED


def _unfit(error: Exception, arguments: list[str]) -> str:
    """Explain an argument that no store, server or JSON can hold; empty for other errors."""
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return "the current folder was removed: change to one that there is"
    if isinstance(error, OverflowError) or "64-bit" in str(error):
        huge = (value for value in map(_value, arguments) if _is_huge(value))
        return next((f"{each[:80]} is too large: numbers go up to 2^63 - 1" for each in huge), "")
    if isinstance(error, (UnicodeError, TypeError)):
        other = (each[:80] for each in arguments if _has_surrogates(each))
        return next(
            (f"{each!a} is not UTF-8: only paths may have other bytes" for each in other), ""
        )
    return ""


def _is_of_output(error: Exception) -> bool:
    """Whether writing to stdout failed: its reader is gone, or its disk is full."""
    is_full = isinstance(error, OSError) and error.errno in _FULL and error.filename is None
    return is_full or isinstance(error, BrokenPipeError)


def _has_folder() -> bool:
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False


def _value(argument: str) -> str:
    return argument.rpartition("=")[2]


def _is_huge(value: str) -> bool:
    return value.isdecimal() and len(value.lstrip("0")) >= len(str(2**63))


def _has_surrogates(argument: str) -> bool:
    """Whether it has bytes that are not UTF-8: Python decodes those as surrogates."""
    return any("\ud800" <= each <= "\udfff" for each in argument)


def _take_credentials() -> None:
    """Set variables from systemd's credentials, which are files."""
    from agentpipe.connections.credentials import from_credentials

    os.environ.update(from_credentials(os.environ))


def _escape_what_the_terminal_lacks() -> None:
    """Escape characters that stdout cannot encode, so that an ASCII terminal raises no error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _complete(words: list[str]) -> int:
    """Answer a shell's completion request."""
    from agentpipe.cli.completion import complete

    complete(_parser(words))
    return OK


class _Parser(argparse.ArgumentParser):
    """Prints the error first, in one line."""

    _intermixing = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in (None, "store"):
            self.register("action", name, GivenOnce)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{message}\nSee: {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Allow options between arguments: ``send NAME -c FILE QUESTION``."""
        # Intermixed parsing would treat an argument after ``--`` as an option.
        plain = self._subparsers is not None or "--" in (args or ()) or "_ARGCOMPLETE" in os.environ
        if self._intermixing or plain:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        try:
            parsed, extras = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixing = False
        self._refuse_misspelt(extras)
        return parsed, extras

    def _refuse_misspelt(self, extras: list[str]) -> None:
        for extra in extras:
            option = extra.partition("=")[0]
            if extra.startswith("--") and (near := nearest(option, self._option_string_actions)):
                self.error(f"unknown option {option}: did you mean {near}?")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = list(map(str, action.choices or ()))
        if str(value) not in choices and (near := nearest(value, choices)):
            names = [*action.option_strings[-1:], action.metavar, action.dest]
            noun = next(filter(None, names))
            self.error(f"unknown {noun} {value!r}: did you mean {near!r}?")
        super()._check_value(action, value)


def whole_parser() -> argparse.ArgumentParser:
    """The parser with the options of all commands."""
    return _parser(list(COMMANDS))


def module_of(command: str) -> str:
    """The command's module name, with ``_`` appended to a Python keyword."""
    name = command.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="agentpipe",
        description="Run AI agents by the thousand and get every result back as one stream.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"agentpipe {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=epilog(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments:  # Only list the other commands.
            module = import_module(f"agentpipe.cli.{module_of(name)}")
            module.add(command)
            command.set_defaults(run=module.run)
    return parser
