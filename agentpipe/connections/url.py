"""Url: what the URLs of servers have in common: their parameters, and the certificates of TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TLS_PARAMETERS = ("cafile", "certfile", "keyfile")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts; its methods raise ``ConfigError`` for what cannot be.

    Attributes:
        shown: It, as it may be shown.
        given: Its parameters.
    """

    parts: SplitResult
    given: Mapping[str, str]
    shown: str

    @classmethod
    def parse(cls, url: str, known: Sequence[str]) -> Self:
        """Take it apart; ``known`` are the parameters it may have, beside those of TLS.

        Raises:
            ConfigError: It cannot be read, or has a parameter that is not known.
        """
        shown = without_password(url)
        try:
            parts = urlsplit(url)
            given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise ConfigError(f"{shown}: {error}") from error
        found = cls(parts, given, shown)
        names = (*known, *TLS_PARAMETERS)
        for name in given:
            if name not in names:
                raise found.wrong(f"{name!r} is no parameter; there are {', '.join(names)}")
        return found

    def wrong(self, why: str) -> ConfigError:
        """The error that says what is wrong with it."""
        return ConfigError(f"{self.shown}: {why}")

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """The parameter ``name``, the first choice where it is not given."""
        choice = self.given.get(name, choices[0])
        if choice not in choices:
            raise self.wrong(f"{name} is one of {', '.join(choices)}")
        return choice

    def number(self, name: str, default: int, least: int = 1) -> int:
        """The parameter ``name`` as a whole number."""
        text = self.given.get(name)
        if text is None:
            return default
        if not text.isdecimal() or int(text) < least:
            raise self.wrong(f"{name} is a whole number, at least {least}")
        return int(text)

    def tls(self) -> ssl.SSLContext:
        """Who is trusted, and a certificate of ours where one is given."""
        try:
            context = ssl.create_default_context(cafile=self.given.get("cafile"))
            if "certfile" in self.given:
                context.load_cert_chain(self.given["certfile"], self.given.get("keyfile"))
        except OSError as error:
            raise self.wrong(f"the certificates cannot be read: {error}") from error
        return context
