"""CommandEngine: any program as an agent; its task on stdin, its answer on stdout.

The program's environment is its context and a few named variables of the worker's. It works in
a folder of its own that is removed afterwards, and dies with its time limit or its worker, with
everything that it started.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.did_you_mean import unknown_keys
from agentpipe.core.trace import record_spans, record_usage
from agentpipe.engines.command.argv import argv_problems, filled
from agentpipe.engines.process.launcher import PASSED_ON, nursery, passed_on
from agentpipe.engines.process.pipes import read, read_end, write
from agentpipe.errors import AgentFailed, AnswerError, ConfigError, InfraError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.base import Agent
    from agentpipe.engines.process.launcher import Child

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
_KEYS = ("argv", "pass_env", "max_output_bytes")


class CommandEngine:
    """Builds agents that run ``config.argv`` for each task.

    ``{{ question }}`` and the task's other plain fields, ``{{ metadata.NAME }}`` and
    ``{{ here }}`` (the config's folder) are replaced within an argument; no shell reads them.
    A context's values are not offered: a process list shows arguments to everybody.
    """

    blocks = False
    has_processes = True

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self._folder, self._config = config.file.parent, config.config
        problems = [*unknown_keys(self._config, _KEYS), *argv_problems(self._config.get("argv"))]
        problems = problems + _option_problems(self._config) or self._missing_program()
        if problems:
            raise ConfigError(
                [Problem(problem, str(config.file), config.line) for problem in problems]
            )

    def build(self) -> Agent:
        """An agent; its program is started anew for each task."""
        program, *arguments = self._config["argv"]
        return Command(
            (self._program(program), *arguments),
            self._folder,
            self._pass_env,
            self._config.get("max_output_bytes", MAX_OUTPUT_BYTES),
        )

    @property
    def _pass_env(self) -> Sequence[str]:
        names: Sequence[str] = self._config.get("pass_env", PASSED_ON)
        return names

    def _program(self, name: str) -> str:
        """A relative path is the config's folder's."""
        return str(self._folder / name) if "/" in name else name

    def _missing_program(self) -> list[str]:
        program = self._program(self._config["argv"][0])
        path = passed_on(self._pass_env).get("PATH", os.defpath)
        if shutil.which(program, path=path) is not None:
            return []
        hint = "write its path from this file's folder, or install it where the workers run"
        return [f"argv: no such program {program!r}: {hint}"]


class Command:
    """Runs a program once for each task."""

    def __init__(
        self, argv: Sequence[str], folder: Path, pass_env: Sequence[str], max_output_bytes: int
    ) -> None:
        self._argv, self._folder = argv, folder
        self._pass_env, self._max_output_bytes = pass_env, max_output_bytes

    async def execute(self, task: Task, context: Context) -> Any:
        """What the program answered.

        Raises:
            InfraError: It ended with 75, "try again later".
            AgentFailed: It ended otherwise than with 0; the message has the end of its stderr.
            AnswerError: It wrote too much, or no text.
        """
        argv = filled(self._argv, task, str(self._folder))
        env = passed_on(self._pass_env) | dict(context.env)
        (its_in, stdin), (stdout, its_out), (stderr, its_err) = (os.pipe() for _ in range(3))
        try:
            child = await nursery().start(argv, env, (its_in, its_out, its_err))
        except BaseException as error:
            for number in (stdin, stdout, stderr):
                os.close(number)
            if isinstance(error, OSError):
                raise AgentFailed(f"{argv[0]} cannot be started: {_why(error)}") from error
            raise
        given = write(stdin, orjson.dumps(task))
        output, status, said = await self._talk(child, given, stdout, stderr)
        _refuse_failure(Path(argv[0]).name, status, said)
        return _answer(output)

    async def _talk(
        self, child: Child, given: Any, stdout: int, stderr: int
    ) -> tuple[bytes, int, str]:
        giving = asyncio.ensure_future(given)
        taking = asyncio.ensure_future(read(stdout, self._max_output_bytes))
        hearing = asyncio.ensure_future(read_end(stderr))
        try:
            return await taking, await child.wait(), await hearing
        finally:
            child.end()
            for part in (giving, taking, hearing):
                part.cancel()
            await asyncio.gather(giving, taking, hearing, return_exceptions=True)


def _refuse_failure(program: str, status: int, said: str) -> None:
    if status == os.EX_TEMPFAIL:
        raise InfraError(f"{program} says to try again later: {said}")
    if status < 0:
        raise AgentFailed(f"{program} was killed by signal {-status}: {said}")
    if status:
        raise AgentFailed(f"{program} ended with {status}: {said}")


def _answer(output: bytes) -> Any:
    """The key ``answer`` where the output is a JSON object that has it, else the text itself."""
    try:
        document = orjson.loads(output)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and "answer" in document:
        _take_along(document)
        return document["answer"]
    try:
        return output.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise AnswerError(f"the command wrote no UTF-8: {error.reason}") from error


def _take_along(document: Mapping[str, Any]) -> None:
    try:
        record_spans(document.get("trace") or [])
        record_usage(document.get("usage") or {})
    except (TypeError, ValueError) as error:
        raise AnswerError(f"the command's output is not as documented: {error}") from error


def _option_problems(config: Mapping[str, Any]) -> list[str]:
    problems = []
    names, size = config.get("pass_env", []), config.get("max_output_bytes", 1)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        problems.append("pass_env: expected a list of names, such as [PATH, HOME, LANG]")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        problems.append("max_output_bytes: expected a whole number above 0")
    return problems


def _why(error: OSError) -> str:
    if error.errno == errno.E2BIG:
        return "its arguments are too long; have it read the task from stdin"
    return error.strerror or str(error)
