"""A server that takes token ids, as vLLM with ``--enable-scale-out``; a script for LlmStub.

Its tokenizer encodes two letters as one id, but its model samples one id per letter: encoding the
text of an answer again gives other ids than were sampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.llm_stub import Reply, TokenIds, fail, send

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.llm_stub import Request

START, END, LINE = 1, 2, 10
DEFAULT_LIMIT = 16
_PAIR = 0x100


def written(text: str) -> list[int]:
    """The ids of a text: the tokenizer encodes letters in pairs."""
    pairs = [text[at : at + 2] for at in range(0, len(text), 2)]
    return [
        ord(each[0]) if len(each) == 1 else ord(each[0]) * _PAIR + ord(each[1]) for each in pairs
    ]


def read(ids: Sequence[int]) -> str:
    """The text of ids, without special tokens."""
    letters = [(divmod(each, _PAIR) if each > _PAIR else (0, each)) for each in ids]
    known = [(first, last) for first, last in letters if last > END]
    return "".join((chr(first) if first else "") + chr(last) for first, last in known)


class TokenServer:
    """Gives ``answers`` in order; an answer that ends in ``...`` is cut off by its length."""

    def __init__(
        self, answers: Sequence[str], *, forgets: bool = False, version: str = "7"
    ) -> None:
        """Create a server; with ``forgets``, its template drops the text of all earlier answers."""
        self.prompts: list[list[int]] = []
        self.generated: list[dict[str, Any]] = []
        self._answers, self._forgets, self._version = answers, forgets, version

    def __call__(self, request: Request) -> Reply:
        known: dict[str, Callable[[dict[str, Any]], Reply]] = {
            "/v1/chat/completions/render": self._render,
            "/inference/v1/generate": self._generate,
            "/v1/chat/completions/derender": self._derender,
            "/v1/chat/completions": self._complete,
        }
        take = known.get(request.path)
        return take(request.body) if take else fail(404, {"detail": "Not Found"})

    def _render(self, body: dict[str, Any]) -> Reply:
        """Render a prompt; like vLLM, leave out sampling parameters with default values."""
        limit = body.get("max_tokens", 100)
        sampling = {"max_tokens": limit} if limit != DEFAULT_LIMIT else {}
        return send({"token_ids": self._ids(body), "sampling_params": sampling})

    def _ids(self, body: dict[str, Any]) -> list[int]:
        messages, ids = body["messages"], list[int]()
        for at, message in enumerate(messages):
            is_old = message["role"] == "assistant" and at < len(messages) - 1
            text = "" if is_old and self._forgets else message.get("content") or ""
            text += "".join(call["function"]["name"] for call in message.get("tool_calls") or ())
            ids += [START, *written(message["role"]), LINE, *written(text), END, LINE]
        if body.get("add_generation_prompt", True):
            ids += [START, *written("assistant"), LINE]
        return ids

    def _sampled(self) -> tuple[list[int], str]:
        answer = self._answers[min(len(self.prompts), len(self._answers)) - 1]
        is_cut = answer.endswith("...")
        return [*map(ord, answer), *([] if is_cut else [END])], "length" if is_cut else "stop"

    def _generate(self, body: dict[str, Any]) -> Reply:
        self.prompts.append(body["token_ids"])
        self.generated.append(body)
        ids, finish = self._sampled()
        logprobs = {"content": [{"token_id": each, "logprob": -each / 1000} for each in ids]}
        versions = [{"version": self._version, "start": 0, "end": len(ids)}]
        choice = {"index": 0, "finish_reason": finish, "token_ids": ids, "logprobs": logprobs}
        return send({"request_id": "g", "choices": [{**choice, "weight_versions": versions}]})

    def _derender(self, body: dict[str, Any]) -> Reply:
        choice = body["generate_response"]["choices"][0]
        message = {"role": "assistant", "content": read(choice["token_ids"])}
        shown = {"index": 0, "message": message, "finish_reason": choice["finish_reason"]}
        usage = {"prompt_tokens": body["prompt_tokens"], "completion_tokens": 1}
        return send({"id": "g", "model": "m", "choices": [shown], "usage": usage})

    def _complete(self, body: dict[str, Any]) -> Reply:
        """Answer a chat completion that sends messages."""
        self.prompts.append(self._ids(body))
        ids, finish = self._sampled()
        message = {"role": "assistant", "content": read(ids)}
        return Reply(message, finish=finish, ids=TokenIds(self.prompts[-1], ids))
