"""Token mode: the model's server gets the ids that it sampled, instead of their text again.

vLLM with ``--enable-scale-out`` converts a conversation to ids (``render``), continues ids
(``generate``), and parses the answer and its calls from ids (``derender``). Between ``render`` and
``generate``, the ids that were sampled earlier replace the ids of their text.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from agentpipe.core.rollout import recorder
from agentpipe.engines.models.held_tokens import HeldTokens
from agentpipe.engines.models.reading import UnreadableResponse, a_list, an_object
from agentpipe.engines.models.service_errors import ServiceError
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from agentpipe.core.rollout import Rollout

    # Posts JSON to a path below the server's root; an error status raises ``ServiceError``.
    Post = Callable[[str, Mapping[str, Any]], Awaitable[Any]]

RENDER = "/v1/chat/completions/render"
GENERATE = "/inference/v1/generate"
DERENDER = "/v1/chat/completions/derender"
# Fields of a client's request that only concern how the answer is sent.
_OF_ANSWER = ("stream", "stream_options", "return_token_ids")
# Statuses of a path that the server does not know or support.
_UNKNOWN = frozenset({404, 405, 501})
# Last ids of the prompt for ``derender``: earlier ids do not change how later text decodes.
_SEED_IDS = 64
# Two answers of one token each, whose texts have no common ending.
_PROBES = ("a", "1")

log = logging.getLogger(__name__)


def root_of(base_url: str) -> str:
    """The server's root, from a base URL of OpenAI's protocol."""
    return base_url.rstrip("/").removesuffix("/v1")


class TokenMode:
    """Token ids of the conversations of one run."""

    def __init__(self, *, required: bool) -> None:
        """With ``required``, a server without token mode fails the run."""
        self._required = required
        self._held = HeldTokens()
        self._closing: list[int] | None = None
        self._is_refused = False

    async def completion(
        self, body: Mapping[str, Any], post: Post, server: str
    ) -> dict[str, Any] | None:
        """Return a request's chat completion with its ids; None if the server has no token mode.

        Raises:
            AgentFailed: The server has no token mode, and the run requires it.
            ServiceError: It refuses the request.
            UnreadableResponse: Its answer does not have the expected format.
        """
        if self._is_refused:
            return None
        asked = {name: value for name, value in body.items() if name not in _OF_ANSWER}
        asked["logprobs"] = True
        try:
            rendered = an_object(await post(RENDER, asked), RENDER)
        except ServiceError as error:
            if error.status_code not in _UNKNOWN:
                raise
            self._note_refusal(error, server)
            return None
        return await self._continued(asked, rendered, post)

    async def _continued(
        self, asked: Mapping[str, Any], rendered: dict[str, Any], post: Post
    ) -> dict[str, Any]:
        prompt = await self._prompt(asked, rendered, post)
        request = _with_room({**rendered, "token_ids": prompt}, rendered, asked)
        generated = an_object(await post(GENERATE, request), GENERATE)
        given = {
            "model": asked.get("model"),
            "generate_response": generated,
            "prompt_tokens": len(prompt),
            "prompt_token_ids": prompt[-_SEED_IDS:],
            "chat_request": asked,
        }
        completion = _with_ids(await post(DERENDER, given), generated, prompt)
        choice = completion["choices"][0]
        ids = [*prompt, *_ids(choice.get("token_ids"), GENERATE)]
        self._held.keep(asked, an_object(choice.get("message"), "message"), ids)
        return completion

    async def _prompt(
        self, asked: Mapping[str, Any], rendered: Mapping[str, Any], post: Post
    ) -> list[int]:
        """The prompt's ids, with held ids for earlier turns; as rendered if these do not match."""
        ids = _ids(rendered.get("token_ids"), RENDER)
        found = self._held.longest(asked)
        if found is None or rendered.get("features"):  # Positions of images count in these ids.
            return ids
        messages = asked["messages"][: found.messages]
        before = await self._rendered_answer(asked, messages, post)
        closing = await self._closed(asked, post)
        if ids[: len(before)] != before or before[len(before) - len(closing) :] != closing:
            return ids  # The template renders an earlier answer differently from the last one.
        return [*found.ids, *_missing(found.ids, closing), *ids[len(before) :]]

    async def _closed(self, asked: Mapping[str, Any], post: Post) -> list[int]:
        """The ids that the template adds after an answer."""
        if self._closing is None:
            first, second = [
                await self._rendered_answer(asked, _probe(answer), post) for answer in _PROBES
            ]
            self._closing = _common_end(first, second)
        return self._closing

    async def _rendered_answer(
        self, asked: Mapping[str, Any], messages: list[Any], post: Post
    ) -> list[int]:
        """Render a conversation that ends in an answer, without a prompt for the next one."""
        body = {**asked, "messages": messages, "add_generation_prompt": False}
        return _ids(an_object(await post(RENDER, body), RENDER).get("token_ids"), RENDER)

    def _note_refusal(self, error: ServiceError, server: str) -> None:
        if self._required:
            raise AgentFailed(
                f"the model's server does not take token ids: {RENDER}: {error}; serve the model "
                "with vLLM and --enable-scale-out, or write `record: {mode: messages}`",
                kind="NoTokenMode",
                permanent=True,
            ) from error
        self._is_refused = True
        _say_refused(server)


@lru_cache(maxsize=256)
def _say_refused(server: str) -> None:
    log.warning(
        "%s does not take token ids (%s): its runs are recorded as with `mode: messages`: serve "
        "the model with vLLM and --enable-scale-out",
        server,
        RENDER,
    )


_of_run: WeakKeyDictionary[Rollout, TokenMode] = WeakKeyDictionary()


def token_mode() -> TokenMode | None:
    """The token mode of the current run; None if it asks by messages or is not recorded."""
    rollout = recorder()
    if rollout is None or not rollout.by_tokens:
        return None
    if rollout not in _of_run:
        _of_run[rollout] = TokenMode(required=rollout.required)
    return _of_run[rollout]


def _ids(value: Any, path: str) -> list[int]:
    if not isinstance(value, list) or not {*map(type, value)} <= {int}:
        raise UnreadableResponse(f"{path}: expected token_ids")
    return value


def _with_ids(answer: Any, generated: Mapping[str, Any], prompt: list[int]) -> dict[str, Any]:
    """A completion with its ids, as if the request had asked for them."""
    completion = an_object(answer, DERENDER)
    shown = [an_object(each, "choices") for each in a_list(completion.get("choices"), "choices")]
    sampled = [an_object(each, "choices") for each in a_list(generated.get("choices"), "choices")]
    if len(shown) != 1 or len(sampled) != 1:
        raise UnreadableResponse(f"{DERENDER}: expected one choice")
    own = {name: sampled[0].get(name) for name in ("token_ids", "weight_versions")}
    logprobs = shown[0].get("logprobs") or sampled[0].get("logprobs")
    choice = {**shown[0], **own, "logprobs": logprobs}
    return {**completion, "choices": [choice], "prompt_token_ids": prompt}


def _with_room(
    request: dict[str, Any], rendered: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Limit sampling as asked, else to the context that remains after a longer prompt."""
    sampling = request.get("sampling_params")
    if not isinstance(sampling, dict):
        return request
    if limit := asked.get("max_completion_tokens") or asked.get("max_tokens"):
        # render omits max_tokens if it is 16, vLLM's default; without it, sampling has no limit.
        return {**request, "sampling_params": {"max_tokens": limit, **sampling}}
    longer = len(request["token_ids"]) - len(rendered["token_ids"])
    most = sampling.get("max_tokens")
    if longer <= 0 or not isinstance(most, int) or most <= longer:
        return request
    return {**request, "sampling_params": {**sampling, "max_tokens": most - longer}}


def _missing(held: list[int], closing: list[int]) -> list[int]:
    """The part of ``closing`` that the model did not sample itself at the end of its answer."""
    for size in range(min(len(held), len(closing)), 0, -1):
        if held[-size:] == closing[:size]:
            return closing[size:]
    return closing


def _common_end(first: list[int], second: list[int]) -> list[int]:
    size = 0
    while size < min(len(first), len(second)) and first[-1 - size] == second[-1 - size]:
        size += 1
    return first[len(first) - size :]


def _probe(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
