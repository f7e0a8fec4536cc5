"""The program: runs one command, prints its error, and returns its exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

from agentpipe.cli.exit_codes import FAILED, OK, USAGE, exit_code
from agentpipe.cli.guard import drop_output, guarded_output
from agentpipe.cli.parser import parser_for
from agentpipe.errors import AgentpipeError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def run(argv: list[str] | None = None) -> int:
    """Run one command; print its error, if any; return its exit code.

    Raises:
        KeyboardInterrupt: Ctrl-C, if the command has no other end for it.
    """
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
    except BrokenPipeError:  # The reader closed the pipe, as `| head` does.
        drop_output(sys.stdout)
        return OK
    except OSError as error:
        if not _is_of_output(error):
            raise
        drop_output(sys.stdout)
        from agentpipe.cli.output import say

        try:
            say(f"cannot write the output: {error.strerror}: make room for it")
            sys.stderr.flush()
        except OSError:  # stderr is on the same full disk.
            drop_output(sys.stderr)
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


def _run(arguments: list[str]) -> int:
    try:
        if "CREDENTIALS_DIRECTORY" in os.environ:
            _take_credentials()
        parser = parser_for(arguments)
        if not arguments:
            parser.print_help(sys.stderr)
            return USAGE
        args = parser.parse_args(arguments)
        return int(args.run(args))
    except AgentpipeError as error:
        from agentpipe.cli.output import say

        say(*error.lines)
        return exit_code(error)
    except Exception as error:
        if _is_of_output(error):
            raise
        if said := _unfit(error, arguments):
            from agentpipe.cli.output import say

            say(said)
            return USAGE
        import traceback

        traceback.print_exc()
        return FAILED


def _unfit(error: Exception, arguments: list[str]) -> str:
    """Explain an argument that no store, server or JSON can hold; empty for other errors."""
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return "the current folder was removed: change to one that there is"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{str(error.filename)[:80]}...: the path is longer than the system allows"
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

    complete(parser_for(words))
    return OK
