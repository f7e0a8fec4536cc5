"""RunUrl: a model server's base URL that differs by run, as training gateways use it.

Example: ``http://gateway:9090/sessions/{{ task_id }}/v1``. Values of the task are quoted, and only
allowed after the host, so a sender cannot choose where a key is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from agentpipe.core import trace
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.template import names_in, render
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.core.task import Task

FIELDS = ("task_id", "attempt", "group_id", "sample_index", "policy_version")


def is_template(base_url: str) -> bool:
    """Whether the URL differs by run."""
    return "{{" in base_url


def url_problems(base_url: str) -> Iterator[str]:
    """Problems with its placeholders, one sentence each."""
    host = base_url.partition("://")[2].partition("/")[0]
    for name in names_in(host):
        if name in FIELDS:
            yield f"base_url: a task must not choose the server: write {{{{ {name} }}}} behind it"
    rest = render(base_url, dict.fromkeys(names_in(base_url), ""))
    if "{{" in rest or "}}" in rest:
        known = ", ".join(FIELDS)
        yield f"base_url: a placeholder is {{{{ NAME }}}}, with {known} or a name of the context"


def filled(base_url: str, task: Task, env: Mapping[str, str]) -> str:
    """Fill in this run's URL; names that are not fields of the task come from the context.

    Raises:
        AgentFailed: A value is missing, or would lead to another path.
    """
    values = {name: _value(name, task, env) for name in names_in(base_url)}
    url: str = render(base_url, values)
    if any(unquote(part) in {".", ".."} for part in urlsplit(url).path.split("/")):
        raise _refused("a value that consists of dots would lead to another path")
    return url


def _value(name: str, task: Task, env: Mapping[str, str]) -> str:
    if name not in FIELDS:
        if not env.get(name):
            raise _refused(
                f"the context has no variable {name!r}: {did_you_mean(name, [*FIELDS, *env])}"
            )
        return env[name]
    value = trace.attempt() if name == "attempt" else getattr(task, name)
    if value is None or value == "":
        raise _refused(f"the task has no {name}")
    return quote(str(value), safe="")


def _refused(text: str) -> AgentFailed:
    return AgentFailed(f"base_url: {text}", kind="ConfigError", permanent=True)
