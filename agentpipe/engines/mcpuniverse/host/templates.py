"""Templates of tasks: limits the variables that they read, and stops them from running code."""

from __future__ import annotations

import re
from typing import Any


def restrict(names: dict[str, Any], env: dict[str, str]) -> None:
    """Let tasks in this process read only some variables, and stop templates from running Python.

    Anyone who sends tasks can write templates. 1.1.3 renders them with Jinja, from ``os.environ``
    and the context.

    Args:
        names: ``readable``: the names of the context that tasks can read. ``credentials``: a
            pattern for names of other variables that tasks cannot read, or None if they cannot read
            any other.
        env: The context's variables.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from mcpuniverse.benchmark import task
    from mcpuniverse.evaluator import evaluator

    readable, credentials = frozenset(names["readable"]), names["credentials"]

    def is_readable(name: str) -> bool:
        if name in env or credentials is None:
            return name in readable
        return re.search(credentials, name, re.IGNORECASE) is None

    class TaskEnvironment(SandboxedEnvironment):
        def from_string(self, *args: Any, **kwargs: Any) -> _Template:
            return _Template(super().from_string(*args, **kwargs), is_readable)

    for module in (task, evaluator):
        module.Environment = TaskEnvironment


class _Template:
    """A template that shows a hidden name in the same way as 1.1.3 shows an unknown name."""

    def __init__(self, template: Any, is_readable: Any) -> None:
        self._template, self._is_readable = template, is_readable

    def render(self, **values: str) -> str:
        shown = {
            name: value if self._is_readable(name) else f"{{{{ {name} }}}}"
            for name, value in values.items()
        }
        return str(self._template.render(**shown))
