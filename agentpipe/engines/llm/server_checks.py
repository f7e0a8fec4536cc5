"""Problems with an agent's MCP servers on this machine, for ``agentpipe check``."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.account import variables_of
from agentpipe.core.redaction import Redactor
from agentpipe.engines.process.launcher import PASSED_ON, passed_on
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.core.account import Account
    from agentpipe.core.context import Context
    from agentpipe.engines.llm.access import Access

AT_ONCE = 8
_PYTHON = re.compile(r"(python|pypy)[\d.]*$")
# Programs that run a script, and their options that take a value.
_INTERPRETERS: dict[str, tuple[str, ...]] = {
    "node": ("-r", "--require", "--import", "--loader", "-C", "--conditions"),
    "python": ("-X", "-W", "--check-hash-based-pycs"),
    **dict.fromkeys(("bash", "sh", "zsh", "ruby", "perl", "php", "tsx", "Rscript"), ()),
}
# Options followed by code or a module, not a script.
_NO_SCRIPT = re.compile(r"-$|-[A-Za-z]*[cempr]$|--(eval|print)\b")
_MODULE = re.compile(r"(?:-[A-Za-ln-z]+ )*-m ([A-Za-z_]\w*)")
_SCRIPT = re.compile(r"\.(py|js|mjs|cjs|ts|mts|rb|pl|php|sh|R)$")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A server of a config, in one context; ``env`` is the environment of its process."""

    place: str
    server: McpServer
    env: Mapping[str, str]
    account: Account | None


def server_problems(
    access: Access, context: Context, start_limit_s: float, *, start: bool
) -> list[str]:
    """A sentence for each server that cannot be used; with ``start``, each is started once."""
    wanted, problems = [], []
    for place, found in access.each_server(context):
        if isinstance(found, str):
            problems.append(f"{place}: {found}")
            continue
        own = {**passed_on(PASSED_ON), **variables_of(context.account)}
        env = {**own, **access.tool_env(context)}
        missing = _missing(found, {**env, **found.env}) if found.command else ""
        if missing:
            problems.append(f"{place}: the MCP server {found.name!r}: {missing}")
        else:
            wanted.append(_Wanted(place, found, access.tool_env(context), context.account))
    if start:
        problems += asyncio.run(_start(wanted, start_limit_s))
    redactor = Redactor((*context.env.values(), *access.secrets))
    return list(map(redactor.text, problems))


def _missing(server: McpServer, env: Mapping[str, str]) -> str:
    """The missing program, script or module; empty if none is known to be missing."""
    program, *arguments = server.command
    folder = Path(server.cwd or Path.cwd())
    path = str(folder / program) if "/" in program else program
    found = shutil.which(path, path=env.get("PATH", os.defpath))
    if found is None:
        return f"no such program {program!r}: install it on the workers"
    name = "python" if _PYTHON.match(Path(program).name) else Path(program).name
    if name not in _INTERPRETERS:
        return ""
    return _missing_script(name, arguments, folder) or _missing_module(found, arguments, folder)


def _missing_script(name: str, arguments: Sequence[str], folder: Path) -> str:
    """An interpreter's missing script; empty if unsure which argument is the script."""
    left = iter(arguments)
    for argument in left:
        if argument in _INTERPRETERS[name]:
            next(left, None)
        elif _NO_SCRIPT.match(argument):
            return ""
        elif not argument.startswith("-"):
            is_path = "/" in argument or _SCRIPT.search(argument)
            if not is_path or "://" in argument or (folder / argument).exists():
                return ""
            return f"no such script {str(folder / argument)!r}: correct the path"
    return ""


def _missing_module(program: str, arguments: Sequence[str], folder: Path) -> str:
    """The missing module of ``python -m``; only checked for the Python that runs agentpipe."""
    match = _MODULE.match(" ".join(arguments))
    if match is None or not _is_ours(program):
        return ""
    top = match[1]
    if (folder / top).is_dir() or (folder / f"{top}.py").is_file() or find_spec(top):
        return ""
    return f"no module {top!r} in {program}: install it on the workers"


def _is_ours(program: str) -> bool:
    ours = Path(sys.executable)
    return Path(program).parent == ours.parent and Path(program).resolve() == ours.resolve()


async def _start(wanted: Sequence[_Wanted], limit_s: float) -> list[str]:
    room = asyncio.Semaphore(AT_ONCE)
    problems = await asyncio.gather(*(_problem_of(each, limit_s, room) for each in wanted))
    return [problem for problem in problems if problem]


async def _problem_of(wanted: _Wanted, limit_s: float, room: asyncio.Semaphore) -> str:
    from agentpipe.engines.mcp.session import McpSession

    async with room:
        session = McpSession(wanted.server, wanted.env, limit_s, wanted.account)
        try:
            await session.ready()
        except AgentpipeError as error:
            return f"{wanted.place}: {error}"
        else:
            return ""
        finally:
            await session.close()
