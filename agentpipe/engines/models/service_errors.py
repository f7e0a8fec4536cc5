"""Errors that a model's server reports, and what they mean for the run.

OpenAI's format, Anthropic's and their variants use an HTTP status, a code, a type and a message.
They arrive as an error response, in a response with status 200, or within a stream. All are handled
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core import caps
from agentpipe.core.caps import CapExceeded
from agentpipe.core.error_codes import (
    CREDENTIAL_CODES,
    MODEL_CODES,
    QUOTA_CODES,
    QUOTA_WORDS,
    is_rate_limit,
)
from agentpipe.core.failures import REFUSED_CREDENTIALS, SERVER_ERRORS, TOO_BUSY, rate_limit
from agentpipe.core.masking import shorten
from agentpipe.core.outside import encoded
from agentpipe.engines.models import stops
from agentpipe.engines.models.reading import UnreadableResponse, parsed
from agentpipe.errors import AgentFailed, RunLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx2

    from agentpipe.engines.models.conversation import Response

MAX_WORDS_CHARS = 1_000
CLIENT_ERROR = 400
# Conflict, too early, and a connection that a proxy closed: the next attempt can succeed.
PASSING = frozenset({409, 425, 499})

# The status that belongs to a type or code, for errors without a status, as in streams.
_STATUSES = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_KINDS = {
    429: "ModelRateLimitError",
    503: "ModelUnavailableError",
    529: "ModelOverloadedError",
}


@dataclass(frozen=True, slots=True)
class _SetUp:
    """A mistake in the set-up, recognized by what a server reports.

    Attributes:
        codes: Codes and types, in lower case.
        words: Parts of messages, for servers without codes.
    """

    kind: str
    statuses: frozenset[int]
    codes: frozenset[str]
    words: re.Pattern[str]


_SET_UPS = (
    _SetUp(
        "ModelQuotaExceededError",
        frozenset({402}),
        QUOTA_CODES,
        QUOTA_WORDS,
    ),
    _SetUp(
        "ModelAuthenticationError",
        REFUSED_CREDENTIALS,
        CREDENTIAL_CODES | {"authentication_error"},
        re.compile("api key not valid|(incorrect|invalid) api key"),
    ),
    _SetUp(
        "ModelNotFoundError",
        frozenset({404}),
        MODEL_CODES | {"invalid_model", "not_found_error"},
        re.compile("model (does )?not exist|not a valid model id|invalid model"),
    ),
)
_CONTEXT_STATUSES = frozenset({400, 413, 422})
_CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "request_too_large"}
)
# Messages of OpenAI and vLLM, Anthropic, Mistral, Gemini, xAI, Groq, SGLang, llama.cpp and Bedrock;
# then of vLLM's engine, TGI, DashScope, Moonshot, LM Studio, MiniMax, Ollama, Poolside and Vertex.
_CONTEXT_WORDS = re.compile(
    "maximum context length|prompt is too long|exceeds? (the )?context (limit|window|length)"
    r"|too large for model with \d+ maximum context"
    "|input token count.{0,40}exceeds the maximum|maximum prompt length"
    "|reduce the length of the (messages|input|prompt)|longer than the model's context"
    "|exceeds? the (available |model's )(maximum )?context|input is too long"
    r"|longer than the maximum model length|max_tokens must be at least 1, got -(?!1\b)\d"
    r"|too long to fit into the model|\binputs` (tokens \+ `max_new_tokens` must be|must have less)"
    "|range of input length should be|exceeded model token limit"
    "|tokens to keep.{0,40}greater than the context length"
    r"|context window exceeds limit|prompt too long; exceeded"
    r"|input length \d+ exceeds the maximum allowed input"
    "|input tokens exceed the configured limit|input token count.{0,40}only supports up to"
)
# OpenRouter's moderation refuses input with the status of an invalid credential.
_FLAGGED = "flagged_input"


class ServiceError(Exception):
    """An error as a server reported it.

    Attributes:
        status_code: The HTTP status; for an error within status 200, the status that it stands for.
        within: Whether it came in a response with status 200, or in a stream.
        codes: Its code and type, in lower case, if it has them.
        headers: The headers of the response.
    """

    def __init__(self, error: Any, status: int, headers: Mapping[str, str], text: str) -> None:
        described = _description(error)
        named = (described.get(name) for name in ("code", "type", "status"))
        self.codes = {name.lower() for name in named if isinstance(name, str)}
        self.codes |= _flags(described.get("metadata"))
        self.within = status < CLIENT_ERROR
        self.status_code = self._meant(described.get("code")) if self.within else status
        self.headers = headers
        super().__init__(_message(described) or text.strip())

    def _meant(self, code: Any) -> int | None:
        number = int(code) if isinstance(code, str) and code.isdecimal() else code
        if isinstance(number, int) and CLIENT_ERROR <= number < SERVER_ERRORS.stop:
            return number
        return next((_STATUSES[name] for name in sorted(self.codes) if name in _STATUSES), None)


def error_of(response: httpx2.Response, content: bytes) -> ServiceError:
    """Read the error of a response with an error status; ``content`` need not be JSON."""
    try:
        error = parsed(content)
    except UnreadableResponse:
        error = None
    text = content.decode(errors="replace") or response.reason_phrase
    return ServiceError(error, response.status_code, response.headers, text)


def error_within_answer(error: Any, response: httpx2.Response) -> ServiceError:
    """The error in a response with status 200, or in one of its events."""
    return ServiceError(error, response.status_code, response.headers, encoded(error).decode())


def _description(error: Any) -> dict[str, Any]:
    """The object with the message; some servers wrap it, or only send a message."""
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {}
    inner = error.get("error") or error.get("errors")
    return _description(inner) if inner else error


def _flags(metadata: Any) -> set[str]:
    return {_FLAGGED} & metadata.keys() if isinstance(metadata, dict) else set()


def _message(described: Mapping[str, Any]) -> str:
    metadata = described.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None  # OpenRouter's upstream.
    found = (*(described.get(name) for name in ("message", "detail", "msg")), raw)
    return ": ".join(str(text) for text in found if text)


def failure_of(error: Exception, masked: Callable[[str], str]) -> AgentFailed | RunLimitExceeded:
    """Convert a failed request to the error for the run.

    Args:
        error: ``ServiceError``, ``UnreadableResponse``, a timeout, or an error of the HTTP client.
        masked: Masks credentials in a string. The message is cut only after masking, because half a
            credential could not be recognized.
    """
    words = shorten(masked(str(error)), MAX_WORDS_CHARS)
    if isinstance(error, ServiceError):
        return _judged(error, words)
    if isinstance(error, TimeoutError):
        return AgentFailed("the model did not answer in time", kind="ModelTimeout", infra=True)
    if isinstance(error, (UnreadableResponse, CapExceeded)):
        text = f"the model's server sent no complete answer: {words}"
        return AgentFailed(text, kind=type(error).__name__, infra=True)
    text = f"no connection to the model's server: {words or type(error).__name__}"
    return AgentFailed(text, kind="ModelConnectionError", infra=True)


def too_long(remedy: str = "let tools return less") -> RunLimitExceeded:
    """Make the error for a request above ``MAX_REQUEST_BYTES``: it grows with each answer."""
    most = f"{caps.MAX_REQUEST_BYTES:,} bytes (MAX_REQUEST_BYTES)"
    return RunLimitExceeded(f"the conversation has more than {most}: {remedy}", stop="length")


def incomplete(response: Response) -> AgentFailed | RunLimitExceeded | None:
    """The error in the finish reason of an answer; None if the answer can be used."""
    if stops.failed(response):
        text = f"the model's server gave up in its answer: finish reason {response.finish_reason}"
        return AgentFailed(text, kind="IncompleteResponse", infra=True)
    if stops.out_of_context(response):
        text = "the conversation fills the model's context window"
        return RunLimitExceeded(text, stop="length")
    return None


def redirected(_response: object, text: str) -> AgentFailed:
    """Make the error for a redirect to another server: the address is wrong."""
    return AgentFailed(f"the model's server: {text}", kind="ModelRedirected", permanent=True)


def _judged(error: ServiceError, words: str) -> AgentFailed | RunLimitExceeded:
    status = error.status_code
    if _is_out_of_context(error):
        words = f"the conversation exceeds the model's context window: {words}"
        return RunLimitExceeded(words, stop="length")
    text = f"the model's server answered {status or 'an error'}: {words}"
    if set_up := next((each for each in _SET_UPS if _is(error, each)), None):
        return AgentFailed(text, kind=set_up.kind, permanent=True)
    limit = rate_limit(error)
    return AgentFailed(
        text,
        kind=_kind(error),
        infra=_is_service(error),
        retry_after_s=limit.asked_s if limit else None,
        rate_limited=limit is not None and limit.of_credential,
    )


def _is_out_of_context(error: ServiceError) -> bool:
    if not error.within and error.status_code not in _CONTEXT_STATUSES:
        return False
    return bool(_CONTEXT_CODES & error.codes or _CONTEXT_WORDS.search(str(error).lower()))


def _is(error: ServiceError, set_up: _SetUp) -> bool:
    if error.codes & set_up.codes:
        return True
    if error.status_code in set_up.statuses:
        return _FLAGGED not in error.codes and not is_rate_limit(error)
    return error.status_code == CLIENT_ERROR and bool(set_up.words.search(str(error).lower()))


def _is_service(error: ServiceError) -> bool:
    """Whether the service failed; any error within a 200 response counts as that."""
    status = error.status_code
    return error.within or status in TOO_BUSY or status in PASSING or status in SERVER_ERRORS


def _kind(error: ServiceError) -> str:
    if kind := _KINDS.get(error.status_code or 0):
        return kind
    if is_rate_limit(error):
        return _KINDS[429]
    return "ModelServerError" if _is_service(error) else "ModelRequestRejectedError"
