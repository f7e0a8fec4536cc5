"""CommandEngine: any program as an agent, with the task on stdin and the answer on stdout.

The program's environment is its context plus a few of the worker's variables. It runs in a scratch
folder. At its time limit, or when its worker dies, the program and everything it started are
killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.account import variables_of
from agentpipe.core.caps import MAX_OUTPUT_BYTES
from agentpipe.core.did_you_mean import unknown_keys
from agentpipe.core.numbers import is_integer
from agentpipe.core.outside import read_shallow_json
from agentpipe.core.redaction import passwords_in
from agentpipe.core.trace import record_spans, record_usage
from agentpipe.engines.command.argv import argv_problems, filled
from agentpipe.engines.gateway import model_secrets, model_variables, run_gateway
from agentpipe.engines.gateway.blame import UnexplainedExit
from agentpipe.engines.gateway.variables import url_variables
from agentpipe.engines.models import run_url
from agentpipe.engines.process.launcher import (
    PASSED_ON,
    passed_on,
    shared_launcher,
    start_failure,
)
from agentpipe.engines.process.pipes import read, read_end, write
from agentpipe.errors import AgentFailed, AnswerError, ConfigError, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.account import Account
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.base import Agent

# Exit codes that report a wrong set-up: from sysexits.h, and from shells.
SET_UP_CODES = {
    os.EX_CONFIG: "a wrong configuration",
    126: "a program cannot be executed",
    127: "a program was not found",
}
_KEYS = ("argv", "pass_env", "max_output_bytes", "base_url")


class CommandEngine:
    """Builds agents that run ``config.argv`` for each task, without a shell.

    Arguments can contain ``{{ question }}`` and the task's other plain fields, ``{{ metadata.NAME
    }}`` and ``{{ here }}`` (the config's folder). The context's values are not available: a process
    list shows arguments to every user.
    """

    blocks = False
    runs_code = False
    has_processes = True
    records_tokens = True

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self._folder, self._config = config.file.parent, config.config
        self._models = model_variables(os.environ)
        self.secrets = (*model_secrets(self._models), *passwords_in(dict(self._config)))
        problems = [*unknown_keys(self._config, _KEYS), *argv_problems(self._config.get("argv"))]
        problems = problems + _option_problems(self._config) or self._missing_program()
        if problems:
            raise ConfigError(map(config.problem, problems))

    def build(self) -> Agent:
        """Build an agent that starts the program anew for each task."""
        program, *arguments = self._config["argv"]
        return CommandAgent(
            (self._program(program), *arguments),
            self._folder,
            self._pass_env,
            self._config.get("max_output_bytes", MAX_OUTPUT_BYTES),
            self._models,
            base_url=self._config.get("base_url", ""),
        )

    @property
    def _pass_env(self) -> Sequence[str]:
        names: Sequence[str] = self._config.get("pass_env", PASSED_ON)
        return names

    def _program(self, name: str) -> str:
        """Resolve a path relative to the config's folder; a bare name is looked up on the PATH."""
        return str(self._folder / name) if "/" in name else name

    def _missing_program(self) -> list[str]:
        program = self._program(self._config["argv"][0])
        path = passed_on(self._pass_env).get("PATH", os.defpath)
        if shutil.which(program, path=path) is not None:
            return []
        remedy = "write its path relative to this file's folder, or install it on the workers"
        return [f"argv: no such program {program!r}: {remedy}"]


class CommandAgent:
    """Runs a program once for each task."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        pass_env: Sequence[str],
        max_output_bytes: int,
        models: Mapping[str, str],
        *,
        base_url: str = "",
    ) -> None:
        """Keep what each run needs.

        ``models`` are the worker's variables for model servers, used in recorded runs. ``base_url``
        is the server that the program's clients use instead of the one in its environment.
        """
        self._argv, self._folder, self._models = argv, folder, models
        self._base_url = base_url
        self._pass_env, self._max_output_bytes = pass_env, max_output_bytes

    async def execute(self, task: Task, context: Context) -> Any:
        """Run the program and return its answer.

        Raises:
            InfraError: It exited with 75 (EX_TEMPFAIL, "try again later"), or reported a wrong
                set-up: 78 (EX_CONFIG), or a shell's 126 or 127.
            AgentFailed: It cannot be started, or exited with another code than 0; the message
                contains the end of its stderr.
            AnswerError: It wrote too much, or invalid output.
        """
        if self._base_url:
            urls = url_variables(run_url.filled(self._base_url, task, context.env))
            context = replace(context, env={**context.env, **urls})
        env = passed_on(self._pass_env) | variables_of(context.account) | dict(context.env)
        async with run_gateway(task, context, self._models) as gateway:
            return await self._run(task, env | (gateway.env if gateway else {}), context.account)

    async def _run(self, task: Task, env: Mapping[str, str], account: Account | None) -> Any:
        argv = filled(self._argv, task, str(self._folder))
        starting = shared_launcher().start_piped(argv, env, account=account)
        try:
            child, stdin, stdout, stderr = await starting
        except OSError as error:
            raise start_failure(argv[0], error) from error
        writing = asyncio.ensure_future(write(stdin, orjson.dumps(task)))
        reading = asyncio.ensure_future(read(stdout, self._max_output_bytes))
        errors = asyncio.ensure_future(read_end(stderr))
        try:
            output, status = await reading, await child.wait()
            _raise_for_status(Path(argv[0]).name, status, await errors)
            return _answer(output)
        finally:
            child.end()
            for part in (writing, reading, errors):
                part.cancel()
            await asyncio.gather(writing, reading, errors, return_exceptions=True)


def _raise_for_status(program: str, status: int, stderr: str) -> None:
    if status == os.EX_TEMPFAIL:
        raise InfraError(f"{program} ended with {status}, try again later: {stderr}")
    if status in SET_UP_CODES:
        text = f"{program} ended with {status}, {SET_UP_CODES[status]}: {stderr}"
        raise InfraError(text, permanent=True)
    if status < 0:
        raise AgentFailed(f"{program} was killed by signal {-status}: {stderr}")
    if status:
        raise UnexplainedExit(f"{program} ended with {status}: {stderr}")


def _answer(output: bytes) -> Any:
    """The ``answer`` key of a JSON object, otherwise the output as a string."""
    try:
        document = read_shallow_json(output)
    except ValueError:
        document = None
    if isinstance(document, dict) and "answer" in document:
        _record(document)
        return document["answer"]
    return output.decode(errors="replace").rstrip("\r\n")


def _record(document: Mapping[str, Any]) -> None:
    try:
        record_spans(document.get("trace") or [])
        record_usage(document.get("usage") or {})
    except (TypeError, ValueError) as error:
        raise AnswerError(f"the command's output is invalid: {error}") from error


def _option_problems(config: Mapping[str, Any]) -> list[str]:
    problems = []
    names, size = config.get("pass_env", []), config.get("max_output_bytes", 1)
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        problems.append("pass_env: expected a list of names, such as [PATH, HOME, LANG]")
    if not is_integer(size) or size < 1:
        problems.append("max_output_bytes: expected a whole number above 0")
    if "base_url" in config:
        problems += run_url.url_problems(config["base_url"])
    return problems
