"""Requests of prime-rl's environment client, and the tasks made from them.

The names are those of ``verifiers.v1.serve.types``, as of verifiers 0.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.masking import shorten
from agentpipe.core.sampling import SETTINGS
from agentpipe.core.task import Task
from agentpipe.core.task_fields import kind_of
from agentpipe.errors import TaskError
from agentpipe.training.task_digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEALTH, RUN, CANCEL = "health", "run", "cancel"
# Task fields that a taskset's row can set, beside its ``prompt``.
FIELDS = (
    "question",
    "category",
    "output_format",
    "mcp_servers",
    "use_specified_server",
    "evaluators",
    "prepares",
    "cleanups",
)
# Metadata keys: which fields the row had, and its other fields. prime-rl gets the whole row back.
GIVEN, REST = "task_fields", "task_data"
# Settings that the recorder sets itself, and the salt that names the policy's version.
_RECORDED = ("logprobs", "top_logprobs", "return_token_ids", "prompt_logprobs", "cache_salt")
_RENAMED = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences"}
# Settings that agents do not have, with the values that change nothing.
_NO_EFFECT = {"min_tokens": 0, "n": 1, "skip_special_tokens": True, "stream": False}
_MAX_DIGITS = 15
_PLAIN = Task()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One rollout that a trainer requests.

    Attributes:
        task_id: Derived from the request, so that it runs once even if the server restarts.
        task: As ``Dispatcher.send`` takes it.
        base_url: Where the trainer's model is served.
        model: The model's name there.
        version: The version of its weights; None if the request does not say.
    """

    task_id: str
    task: dict[str, Any]
    base_url: str
    model: str
    version: int | None

    @classmethod
    def of(cls, raw: Any, prefix: str, name: str) -> RunRequest:
        """Decode ``raw``, the payload of a request with this name.

        Raises:
            TaskError: The payload is invalid; the message says why.
        """
        data, client = _object(raw, "task_data"), _object(raw, "client")
        sampling = _object(raw, "sampling")
        version = _version(sampling.get("cache_salt"))
        task_id = f"{prefix}{name}"
        added = {
            "task_id": task_id,
            "group_id": f"{prefix}{_group(data, version)}",
            "sampling": dict(_settings(sampling)),
        }
        return cls(
            task_id,
            {**task_of(data), **added},
            _text(client, "base_url"),
            _text(raw, "model"),
            version,
        )


def _group(data: Mapping[str, Any], version: int | None) -> str:
    """The group of a row's samples: one group goes to one server, which has the prompt cached."""
    try:
        digest = digest_of(data)
    except (TypeError, ValueError) as error:
        raise TaskError(f"task_data: not JSON: {shorten(str(error), 200)}") from error
    return digest if version is None else f"{digest}-v{version}"


def _object(raw: Any, name: str) -> dict[str, Any]:
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, dict):
        raise TaskError(f"{name}: expected an object, got {kind_of(value)}")
    return value


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise TaskError(f"{name}: expected a string, got {kind_of(value)}")
    return value


def _version(salt: Any) -> int | None:
    """The version of the weights, which prime-rl uses as the salt of its servers' prompt cache."""
    is_number = isinstance(salt, str) and salt.isascii() and salt.isdecimal()
    return int(salt) if is_number and len(salt) <= _MAX_DIGITS else None


def task_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a taskset's row: its task fields, with its prompt as a missing question.

    Raises:
        TaskError: The row has neither a question nor a prompt.
    """
    task = {name: data[name] for name in FIELDS if data.get(name) is not None}
    rest = {name: value for name, value in data.items() if name not in task}
    metadata = {GIVEN: list(task), REST: rest}
    if "question" not in task:
        task["question"] = _question(data)
        if data.get("prompt") == task["question"]:
            del rest["prompt"]
    return {**task, "metadata": metadata}


def data_of(task: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The row that was passed to ``task_of``, rebuilt from the task in a Result."""
    names, rest = metadata.get(GIVEN), metadata.get(REST)
    if not isinstance(names, list) or not isinstance(rest, dict):
        return {}  # Not one of our tasks: others can write to the stream.
    # A Result omits task fields that have their default value.
    given = {name: task.get(name, getattr(_PLAIN, name)) for name in FIELDS if name in names}
    if "question" not in given and "prompt" not in rest:
        given["prompt"] = task.get("question", "")
    return {**given, **rest}


def _question(data: Mapping[str, Any]) -> str:
    prompt = data.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else list(_texts(prompt))
    if isinstance(data.get("system_prompt"), str):
        texts.insert(0, data["system_prompt"])
    if question := "\n\n".join(filter(None, texts)):
        return question
    raise TaskError("task_data: it has neither a question nor a prompt with text")


def _texts(messages: Any) -> Iterator[str]:
    """The texts of a prompt's messages.

    Raises:
        TaskError: A message has a role other than system or user, or content that is not text.
    """
    for message in messages if isinstance(messages, list) else ():
        is_asked = isinstance(message, dict) and message.get("role") in ("system", "user")
        content = message.get("content") if is_asked else None
        for part in content if isinstance(content, list) else [{"text": content}]:
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                raise TaskError("task_data: prompt: expected texts of a system or a user")
            yield text


def _settings(sampling: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings for a task, under agentpipe's names.

    Raises:
        TaskError: The trainer requests a setting that agents lack: its loss would rely on it.
    """
    for given, value in sampling.items():
        name = _RENAMED.get(given, given)
        has_effect = name not in _NO_EFFECT or _NO_EFFECT[name] != value
        if value is None or name in _RECORDED or not has_effect:
            continue
        if name not in SETTINGS:
            raise TaskError(
                f"sampling: {shorten(given, 40)}: agents have no such setting: remove it"
            )
        yield name, [value] if name == "stop_sequences" and isinstance(value, str) else value
