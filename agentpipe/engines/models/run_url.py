"""RunUrl: a model server's base URL that differs by run, as training gateways use it.

Example: ``http://gateway:9090/sessions/{{ task_id }}/v1``. Values of the task are quoted, and only
allowed after the host, so a sender cannot choose where a key is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from agentpipe.core import trace
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.http_url import server_problem
from agentpipe.core.template import names_in, render
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.core.task import Task

EXPECTED = "a URL that ends with its path, without ? and #"
FIELDS = ("task_id", "attempt", "group_id", "sample_index", "policy_version")


def is_template(base_url: str) -> bool:
    """Whether the URL differs by run."""
    return "{{" in base_url


def url_problems(base_url: Any) -> Iterator[str]:
    """Problems with the URL and its placeholders, one sentence each."""
    if not is_base_url(base_url) and not _begins_with_a_variable(base_url):
        yield f"base_url: expected {EXPECTED}"
        return
    server = _server_in(base_url)
    if not is_template(server) and (problem := server_problem(server)):
        yield f"base_url: {problem}"
    for name in names_in(server):
        if name in FIELDS:
            yield f"base_url: a task must not choose the server: write {{{{ {name} }}}} behind it"
    rest = render(base_url, dict.fromkeys(names_in(base_url), ""))
    if "{{" in rest or "}}" in rest:
        known = ", ".join(FIELDS)
        yield f"base_url: a placeholder is {{{{ NAME }}}}, with {known} or a name of the context"


def _begins_with_a_variable(base_url: Any) -> bool:
    """Whether only the context knows the server; what it fills in is checked in each run."""
    return isinstance(base_url, str) and base_url.startswith("{{") and not {"?", "#"} & {*base_url}


def _server_in(base_url: str) -> str:
    scheme, mark, rest = base_url.rpartition("://")
    return f"{scheme}{mark}{rest.partition('/')[0]}"


def is_base_url(value: Any) -> bool:
    """Whether the protocol's paths can follow it: behind a query they would be part of that."""
    is_url = isinstance(value, str) and value.startswith(("http://", "https://"))
    return is_url and not {"?", "#"} & {*value}


def refuse_bad_url(base_url: str, name: str) -> None:
    """Refuse a URL to which no request can go; ``name`` says where it is set.

    Raises:
        AgentFailed: It is not the URL of a server, or has a query.
    """
    import httpx2

    if problem := _problem(base_url):
        raise _refused(problem, name)
    try:
        httpx2.URL(base_url)
    except httpx2.InvalidURL as error:  # Its message can quote a part of a password.
        text = "not a valid URL: percent-encode special characters, as in a password"
        raise _refused(text, name) from error


def _problem(base_url: str) -> str:
    return server_problem(base_url) if is_base_url(base_url) else f"expected {EXPECTED}"


def filled(base_url: str, task: Task, env: Mapping[str, str]) -> str:
    """Fill in this run's URL; names that are not fields of the task come from the context.

    Raises:
        AgentFailed: A value is missing, or would lead to another path or into a query.
    """
    values = {name: _value(name, task, env) for name in names_in(base_url)}
    url: str = render(base_url, values)
    if problem := _problem(url):
        raise _refused(f"with the context's values, {problem}")
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


def _refused(text: str, name: str = "base_url") -> AgentFailed:
    return AgentFailed(f"{name}: {text}", kind="ConfigError", permanent=True)
