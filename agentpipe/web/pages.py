"""Pages: renders templates; all untrusted values are escaped as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from agentpipe.core.text import counted, one_line, printable
from agentpipe.monitoring import numbers
from agentpipe.show.tones import tone_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Longer texts are cut, with a link to the full text.
MAX_CHARS = 20_000
_NAME_CHARS = 120


class Pages:
    """Renders the templates of this package.

    Args:
        known: Values that every page can use.
    """

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._environment = Environment(
            loader=PackageLoader("agentpipe.web"),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(known, url=url, max_chars=MAX_CHARS)
        self._environment.filters.update(_FILTERS)

    def html(self, template: str, /, **values: Any) -> str:
        """Render a page or a part of one."""
        return self._environment.get_template(template).render(**values)

    def response(self, template: str, status_code: int = 200, /, **values: Any) -> HTMLResponse:
        """Render the page as a response."""
        return HTMLResponse(self.html(template, **values), status_code)

    def message(self, status: int, sentence: str, title: str = "") -> HTMLResponse:
        """A page with one sentence."""
        title = title or _TITLES.get(status, "Error")
        values = {"status": status, "title": title, "sentence": sentence}
        return self.response("message.html", status, **values)


_TITLES = {
    401: "Who is it?",
    403: "Refused",
    404: "Not found",
    405: "Read only",
    503: "Not available",
}


def url(path: str, /, **values: Any) -> str:
    """A path with query parameters; None and empty values are left out.

    Names of runs and tasks are parameters, since a browser would resolve ``..`` in a path.
    """
    given = {
        name.rstrip("_"): str(value).encode(errors="replace")
        for name, value in values.items()
        if value not in (None, "")
    }
    return f"{path}?{urlencode(given)}" if given else path


def _shown(value: Any) -> Any:
    """A value as a template prints it, with control and bidirectional characters escaped."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) else printable(str(value), keep="\n\t")


def share(value: float | None) -> str:
    """A share between 0 and 1 in per cent."""
    return numbers.NONE if value is None else f"{value:.1%}"


def _reward(value: float | None) -> str:
    return numbers.NONE if value is None else f"{value:.3g}"


def _signed(value: float | None) -> str:
    """A difference as ``agentpipe compare`` prints it."""
    return numbers.NONE if value is None else f"{value:+.3f}"


def _money(value: float | None) -> str:
    return numbers.NONE if value is None else numbers.money(value)


_FILTERS = {
    "line": lambda text, room=_NAME_CHARS: one_line(str(text), room),
    "count": numbers.count,
    "counted": counted,
    "rate": numbers.rate,
    "duration": numbers.duration,
    "lag": numbers.lag,
    "size": numbers.size,
    "money": _money,
    "share": share,
    "reward": _reward,
    "quality": numbers.quality,
    "passes_or_fails": numbers.passes_or_fails,
    "signed": _signed,
    "tone": tone_of,
}
