"""Collections and agent configs: YAML -> frozen objects, every mistake named with file and line.

Nothing is built or run here, and no engine's own keys are judged.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema

from agentpipe.context import Context, resolve
from agentpipe.errors import ConfigError, Problem
from agentpipe.yamldoc import kind_of, label, load_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from agentpipe.yamldoc import Document, KeyPath

    _Component = tuple[Document, dict[str, Any]]

MAX_AGENTS = 100_000
MAX_NUMBER = 1_000_000_000
AGENT_KINDS = ("agent", "llm", "workflow")

_MAX_NAME_CHARS = 200
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,20}\s*")
_WORDS: dict[str, Any] = {
    "required": "missing: add it",
    "null": "has no value: give it one, or remove the key",
}
_NOT_YET = "not supported in this version yet: remove it"
_NO_PROCESS = "process is not supported in this version yet: use coroutine or thread"
_NOT_A_COLLECTION = "this is an agent config: give the collection file that names it"
_NOT_AN_AGENT_CONFIG = "this is a collection: give the agent config that it names"


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent of a collection.

    Attributes:
        index: Counted from 0 within its collection.
        queue: Where its tasks wait.
        context_index: Which of the collection's contexts it has; None where there are none.
    """

    collection: str
    index: int
    queue: str
    context_index: int | None


@dataclass(frozen=True, slots=True, repr=False)
class ContextSpec:
    """A context as it is written, its references unresolved; its repr shows no value.

    Attributes:
        line: Where the entry begins.
        env_lines: The line of each name of ``env``.
    """

    env: Mapping[str, str]
    metadata: Mapping[str, Any]
    file: str
    line: int
    env_lines: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"ContextSpec(env=<{', '.join(self.env)}>, file={self.file!r}, line={self.line})"


@dataclass(frozen=True, slots=True)
class Collection:
    """Agents of one config that share their limits.

    Attributes:
        file: The collection file, absolute, like ``config_file``.
        line: Where its document begins.
        number: Agents per context.
        max_queue_size: Tasks that may wait per agent.
        concurrency: Tasks that may run per agent, over all workers.
        max_retries: Further runs after failures of the infrastructure.
        max_crashes: Claims that end without a word before a task is dead.
        isolation: ``coroutine`` or ``thread``.
    """

    name: str
    file: Path
    line: int
    config_file: Path
    number: int = 1
    contexts: tuple[ContextSpec, ...] = ()
    max_queue_size: int = 100
    concurrency: int = 1
    time_limit_s: float = 3600.0
    max_retries: int = 2
    max_crashes: int = 3
    isolation: str = "coroutine"

    @property
    def agents(self) -> tuple[AgentSpec, ...]:
        """``number`` agents per context, contexts taking turns; made anew at each access."""
        count = len(self.contexts)
        return tuple(
            AgentSpec(self.name, index, f"{self.name}_{index}", index % count if count else None)
            for index in range(self.number * max(1, count))
        )


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The entry point of an agent config, and the documents it may refer to.

    Attributes:
        config: The engine's business, unchecked.
        line: Where the entry point's document begins.
        documents: All of the file, the entry point among them.
    """

    type: str
    name: str
    config: Mapping[str, Any] = field(repr=False)
    file: Path
    line: int
    documents: tuple[Document, ...]


def load(path: Path | str) -> tuple[Collection, ...]:
    """Read a collection file; the agent configs it names must exist but are not read.

    Raises:
        ConfigError: With every problem of the file, in its order.
    """
    components, problems = _read(Path(path), _CollectionDocument())
    problems += _too_many_agents(components)
    collections = []
    for document, spec in components:
        try:
            config_file = _find(spec.get("config", ""), Path(path).parent)
        except FileNotFoundError as error:
            problems.append(_problem(document, ("spec", "config"), str(error)))
        else:
            collections.append((document, spec, config_file))
    _raise(problems)
    return tuple(_collection(*parts) for parts in collections)


def load_agent_config(path: Path | str) -> AgentConfig:
    """Read an agent config and find its entry point.

    That is the component with ``is_main: true``, else the only workflow, else the only agent.

    Raises:
        ConfigError: With every problem of the file, in its order.
    """
    components, problems = _read(Path(path), _ComponentDocument())
    problems += _wrong_marks(components)
    _raise(problems)
    document, spec = _entry_point(components)
    return AgentConfig(
        type=spec["type"],
        name=spec["name"],
        config=spec.get("config", {}),
        file=Path(path).absolute(),
        line=document.line,
        documents=tuple(document for document, _ in components),
    )


def resolve_contexts(
    collections: Iterable[Collection], environ: Mapping[str, str]
) -> dict[str, tuple[Context, ...]]:
    """The contexts of each collection by its name; for workers, who alone hold the credentials.

    An agent's is at ``[agent.collection][agent.context_index or 0]``: a collection without
    contexts has one empty one.

    Raises:
        ConfigError: With every reference of every context that leads nowhere.
    """
    problems: list[Problem] = []
    resolved = {}
    for collection in collections:
        contexts = [_context(spec, environ, problems) for spec in collection.contexts]
        resolved[collection.name] = tuple(contexts) or (Context(),)
    if problems:
        raise ConfigError(problems)
    return resolved


def _context(spec: ContextSpec, environ: Mapping[str, str], problems: list[Problem]) -> Context:
    try:
        env = resolve(spec.env, environ, file=spec.file, lines=spec.env_lines)
    except ConfigError as error:
        problems += error.problems
        return Context()
    return Context(env, spec.metadata)


# Building what is returned; a component is a document and what of its spec is valid.


def _collection(document: Document, spec: dict[str, Any], config_file: Path) -> Collection:
    limits = {name: value for name, value in spec.items() if name not in {"config", "context"}}
    contexts = enumerate(spec.get("context", ()))
    return Collection(
        file=Path(document.file).absolute(),
        line=document.line,
        config_file=config_file,
        contexts=tuple(_context_spec(document, index, context) for index, context in contexts),
        **limits,
    )


def _context_spec(document: Document, index: int, context: dict[str, Any]) -> ContextSpec:
    path = ("spec", "context", index)
    env = context.get("env", {})
    return ContextSpec(
        MappingProxyType(env),
        MappingProxyType(context.get("metadata", {})),
        document.file,
        document.line_of(path),
        MappingProxyType({name: document.line_of((*path, "env", name)) for name in env}),
    )


def _find(config: str, folder: Path) -> Path:
    """An agent config's absolute path; FileNotFoundError says where it was sought in vain."""
    places = list(dict.fromkeys([(folder / config).absolute(), Path(config).absolute()]))
    for place in places:
        # What is no valid text at all is a problem already: another would only confuse.
        if not config or _is_file(place):
            return place
    tried = " and ".join(repr(str(place)) for place in places)
    near = difflib.get_close_matches(places[0].name, _names_in(places[0].parent), 1)
    hint = f"did you mean {near[0]!r}?" if near else "write its path from this file's folder"
    raise FileNotFoundError(f"no such file: tried {tried}; {hint}")


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:
        return False


def _too_many_agents(components: list[_Component]) -> Iterator[Problem]:
    total = 0
    for document, spec in components:
        added = spec.get("number", 1) * max(1, len(spec.get("context", ())))
        total += added
        if total > MAX_AGENTS >= total - added:
            message = f"{total:,} agents up to here, {MAX_AGENTS:,} may be in a file: lower it"
            yield _problem(document, ("spec", "number"), message)


def _entry_point(components: list[_Component]) -> _Component:
    runnable = [component for component in components if _kind(component) != "llm"]
    marked = [(document, spec) for document, spec in runnable if spec.get("is_main")]
    workflows = [component for component in runnable if _kind(component) == "workflow"]
    agents = [component for component in runnable if _kind(component) == "agent"]
    for candidates in (marked, workflows, agents):
        if len(candidates) == 1:
            return candidates[0]
    if not runnable:
        problem = _problem(components[0][0], (), "nothing to run: add a document of kind agent")
    else:
        names = ", ".join(_got(spec["name"]) for _, spec in runnable)
        message = f"which of {names} is to run? Write `is_main: true` into the spec of one"
        problem = _problem(runnable[0][0], (), message)
    raise ConfigError(problem)


def _wrong_marks(components: list[_Component]) -> Iterator[Problem]:
    marked = [component for component in components if component[1].get("is_main")]
    for document, _ in (component for component in marked if _kind(component) == "llm"):
        message = "an llm cannot run by itself: mark the agent or workflow that uses it"
        yield _problem(document, ("spec", "is_main"), message)
    for document, _ in marked[1:]:
        message = f"the document in line {marked[0][0].line} is marked already: keep one mark"
        yield _problem(document, ("spec", "is_main"), message)


def _kind(component: _Component) -> Any:
    return component[0].data.get("kind")


# Validation: marshmallow checks the shape, and its messages become problems with a line.


def _read(path: Path, schema: Schema) -> tuple[list[_Component], list[Problem]]:
    """All documents of a file with what is valid of them, and the problems of the rest."""
    components, problems = [], []
    for document in load_documents(path):
        spec, found = _check(schema, document)
        components.append((document, spec))
        problems += found
    return components, [*problems, *_repeated_names(components)]


def _check(schema: Schema, document: Document) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return schema.load(document.data)["spec"], []
    except ValidationError as error:
        # Not raised from here: the error holds the document, credentials and all.
        messages: Any = error.messages
        valid = error.valid_data
    if messages.get("kind") in ([_NOT_A_COLLECTION], [_NOT_AN_AGENT_CONFIG]):
        # Each of its other keys would be a problem too, and none of them is the point.
        messages, valid = {"kind": messages["kind"]}, {}
    problems = [_problem(document, path, text) for path, text in _flat(messages)]
    spec = valid.get("spec") if isinstance(valid, dict) else None
    return spec if isinstance(spec, dict) else {}, problems


def _flat(messages: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(messages, list):
        yield from ((path, text) for text in messages)
        return
    for key, inner in messages.items():
        yield from _flat(inner, path if key == "_schema" else (*path, key))


def _repeated_names(components: list[_Component]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for document, spec in components:
        name, path = spec.get("name"), ("spec", "name")
        if name in first:
            message = f"{_got(name)} is the name in line {first[name]} already: choose another"
            yield _problem(document, path, message)
        elif name is not None:
            first[name] = document.line_of(path)


def _problem(document: Document, path: KeyPath, message: str) -> Problem:
    place = f"{label(path)}: " if path else ""
    return Problem(place + message, document.file, document.line_of(path))


def _raise(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))


def _hint(name: str, choices: Iterable[str]) -> str:
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"


def _got(value: Any) -> str:
    """A value as a message may show it: never for what may be a credential."""
    if isinstance(value, (bool, int, float)):
        return str(value).lower()[:40]
    return repr(value[:40]) if isinstance(value, str) else kind_of(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"expected a text, got {_got(value)}: put it in quotes")
    if not value.strip() or "\0" in value:
        raise ValidationError("expected a text, got an empty one or a NUL: fill it in")
    return value


def _name(value: Any) -> str:
    name = _text(value)
    if not _NAME.fullmatch(name):
        rule = "begin with a letter or _, go on with letters, digits, _ and -"
        raise ValidationError(f"{_got(name)} is no name: {rule}")
    if len(name) > _MAX_NAME_CHARS:
        raise ValidationError(f"longer than {_MAX_NAME_CHARS} characters: shorten it")
    return name


def _one_of(
    *choices: str, refused: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Any], str]:
    """A check for one of a few texts; ``refused`` says why a known one cannot be had."""

    def check(value: Any) -> str:
        text = _text(value)
        if text in refused:
            raise ValidationError(refused[text])
        if text not in choices:
            raise ValidationError(f"{_got(text)} is unknown: {_hint(text, choices)}")
        return text

    return check


def _whole(minimum: int) -> Callable[[Any], int]:
    """A check for a whole number; in quotes or as 3.0 too, as MCP-Universe's files may have it."""

    def check(value: Any) -> int:
        number = value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            number = int(value)
        if isinstance(value, float) and value.is_integer():
            number = int(value)
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or not minimum <= number <= MAX_NUMBER:
            expected = f"a whole number from {minimum} to {MAX_NUMBER:,}"
            raise ValidationError(f"expected {expected}, got {_got(value)}")
        return int(number)

    return check


def _seconds(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_NUMBER:  # NaN is in no range
        expected = f"seconds, a number above 0 and up to {MAX_NUMBER:,}"
        raise ValidationError(f"expected {expected}, got {_got(value)}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(f"expected true or false, got {_got(value)}")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValidationError(f"expected keys with values (`key: value`), got {kind_of(value)}")
    return value


def _env(value: Any) -> dict[str, str]:
    """No message shows a value, nor a name that may hold one."""
    env = _mapping(value)
    faults = {name: fault for name, item in env.items() if (fault := _env_fault(name, item))}
    if faults:
        raise ValidationError({name: [fault] for name, fault in faults.items()})
    return env


def _env_fault(name: str, value: Any) -> str:
    if not _ENV_NAME.fullmatch(name):
        rule = "letters, digits and _, no digit first, and a space after the colon"
        return f"not a name for env: use {rule}"
    if not isinstance(value, str):
        return f"expected a text, got {kind_of(value)}: put the value in quotes"
    return "contains a NUL character: remove it" if "\0" in value else ""


def _not_yet(_value: Any) -> NoReturn:
    raise ValidationError(_NOT_YET)


class _Checked(fields.Field[Any]):
    """A field that is what its function returns."""

    def __init__(self, check: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**{"error_messages": _WORDS} | kwargs)
        self.check = check

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self.check(value)


class _Strict(Schema):
    """Refuses unknown keys, naming the nearest that is known."""

    error_messages = {"type": "expected keys with values (`key: value`)"}  # noqa: RUF012 - marshmallow's

    class Meta:
        unknown = EXCLUDE

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def refuse_unknown(self, _data: Any, original: Any, **_kwargs: Any) -> None:
        if not isinstance(original, dict):
            return
        known = [name for name in self.fields if getattr(self.fields[name], "check", 0) != _not_yet]
        unknown = [name for name in original if name not in self.fields]
        if unknown:
            raise ValidationError(
                {name: [f"unknown key: {_hint(name, known)}"] for name in unknown}
            )


class _ContextEntry(_Strict):
    env = _Checked(_env)
    metadata = _Checked(_mapping)
    concurrency = _Checked(_not_yet, error_messages={"null": _NOT_YET})


class _CollectionSpec(_Strict):
    name = _Checked(_name, required=True)
    config = _Checked(_text, required=True)
    number = _Checked(_whole(1))
    context = fields.List(
        fields.Nested(_ContextEntry, error_messages=_WORDS),
        error_messages=_WORDS | {"invalid": "expected a list: begin each entry with `- env:`"},
    )
    max_queue_size = _Checked(_whole(1))
    concurrency = _Checked(_whole(1))
    time_limit = _Checked(_seconds, attribute="time_limit_s")
    max_retries = _Checked(_whole(0))
    max_crashes = _Checked(_whole(1))
    isolation = _Checked(_one_of("coroutine", "thread", refused={"process": _NO_PROCESS}))
    schedule = _Checked(_not_yet, error_messages={"null": _NOT_YET})


class _CollectionDocument(_Strict):
    kind = _Checked(
        _one_of("collection", refused=dict.fromkeys(AGENT_KINDS, _NOT_A_COLLECTION)), required=True
    )
    spec = fields.Nested(_CollectionSpec, required=True, error_messages=_WORDS)


class _ComponentSpec(_Strict):
    name = _Checked(_text, required=True)
    type = _Checked(_text, required=True)
    config = _Checked(_mapping)
    is_main = _Checked(_flag, allow_none=True)


class _ComponentDocument(_Strict):
    kind = _Checked(
        _one_of(*AGENT_KINDS, refused={"collection": _NOT_AN_AGENT_CONFIG}), required=True
    )
    spec = fields.Nested(_ComponentSpec, required=True, error_messages=_WORDS)
