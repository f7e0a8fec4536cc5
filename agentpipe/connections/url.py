"""Parameters and TLS certificates in the URLs of servers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.redaction import NESTED, without_password
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

TLS_PARAMETERS = ("cafile", "certfile", "keyfile")
# Schemes whose paths, a database or a topic, have no @.
_WITHOUT_AT = frozenset({"redis", "rediss", "kafka"})


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed URL; its methods raise ``ConfigError`` for invalid values.

    Attributes:
        given: Its parameters.
        shown: The URL without its password.
    """

    parts: SplitResult
    given: Mapping[str, str]
    shown: str

    @classmethod
    def parse(cls, url: str, known: Sequence[str]) -> Self:
        """Parse ``url``; ``known`` are the allowed parameters besides those of TLS.

        Raises:
            ConfigError: The URL is malformed, or has an unknown parameter.
        """
        shown = without_password(url)
        try:
            parts = split_url(url)
            given = dict(_parameters(parts.query))
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from error
        found = cls(parts, given, shown)
        names = (*known, *TLS_PARAMETERS)
        for name in given:
            if name not in names:
                raise found.wrong(f"unknown parameter {name!r}: {did_you_mean(name, names)}")
        for name, value in given.items():
            if not value:
                raise found.wrong(f"{name} is empty: give it a value, or remove it")
        return found

    def wrong(self, why: str) -> ConfigError:
        """An error about this URL."""
        return ConfigError(f"{self.shown}: {why}")

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """The parameter ``name``; by default the first choice."""
        choice = self.given.get(name, choices[0])
        if choice not in choices:
            raise self.wrong(f"{name} must be one of {', '.join(choices)}")
        return choice

    def number(self, name: str, default: int, least: int = 1) -> int:
        """The parameter ``name`` as an integer."""
        text = self.given.get(name)
        if text is None:
            return default
        if not text.isdecimal() or int(text) < least:
            raise self.wrong(f"{name} must be an integer of at least {least}")
        return int(text)

    def tls(self) -> ssl.SSLContext:
        """A TLS context with the trusted authorities, and a client certificate if given."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.given.get("cafile"))
            if "certfile" in self.given:
                context.load_cert_chain(self.given["certfile"], self.given.get("keyfile"))
        except OSError as error:
            raise self.wrong(f"the certificates cannot be read: {error}") from error
        return context


def _parameters(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []


def split_url(url: str) -> SplitResult:
    """Split a URL like ``urlsplit``, but allow several servers.

    Since 3.11.12, 3.12.9 and 3.13.2, Python refuses ``one,[::1]``: brackets after another host.

    Raises:
        ValueError: The URL is malformed.
    """
    scheme, mark, rest = url.partition("://")
    servers = re.split("[/?#]", rest, maxsplit=1)[0]
    if not mark or "," not in servers:
        return urlsplit(url)
    parts = urlsplit(f"{scheme}://{rest[len(servers) :]}")
    return parts._replace(netloc=servers)


def is_cut_in_user(url: str) -> bool:
    """Whether a slash or a question mark in the user or the password ends the server's name.

    The rest would be read as path or parameters, and errors would show parts of the password.
    """
    scheme, _, place = url.partition("://")
    server = re.split("[/?]", place, maxsplit=1)[0]
    rest = place[len(server) :].partition(NESTED)[0]
    if "@" in server or "@" not in rest:
        return False
    path, _, parameters = rest.partition("?")
    if (scheme in _WITHOUT_AT and "@" in path) or _names_at(parameters):
        return True
    ports = [each.rpartition(":")[2] for each in server.split(",") if ":" in each]
    return any(not it.isdecimal() and not it.endswith("]") for it in ports)  # IPv6: ].


def _names_at(parameters: str) -> bool:
    """Whether a parameter's name has an @: then it is a part of the password."""
    return any("@" in each.partition("=")[0] for each in parameters.split("&"))


def host_in_url(host: str) -> str:
    """A host as written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and "[" not in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_parameters(url: str, **values: str) -> str:
    """Set these parameters in a URL, replacing those of the same names."""
    place, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    kept = [(name, value) for name, value in given if name not in values]
    return f"{place}?{urlencode([*kept, *values.items()])}"


def with_server(url: str, host: str, port: int) -> str:
    """The same URL, including its user, for another server."""
    scheme, _, rest = url.partition("://")
    netloc = split_url(url).netloc
    user = netloc[: netloc.rfind("@") + 1]
    return f"{scheme}://{user}{host_in_url(host)}:{port}{rest[len(netloc) :]}"
