"""Finds all problems of a collection file and of its servers in one pass."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.brokers import open_to_read
from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import read
from agentpipe.config.contexts import resolve_contexts
from agentpipe.config.mcp_universe import NATIVE_ENGINE, is_theirs
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.errors import ConfigError, Problem, StoreError, Unreachable
from agentpipe.operations.check_servers import check_servers
from agentpipe.operations.hidden_names import contexts_of, hidden_names
from agentpipe.operations.misfits import misfits
from agentpipe.sending.firing import check_files
from agentpipe.sinks import is_searchable, open_archive, open_sink
from agentpipe.worker.runners import make_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from agentpipe.config.collection import Collection
    from agentpipe.operations.hidden_names import HiddenNames
    from agentpipe.settings import Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """The problems of a config, and of servers that do not answer.

    Attributes:
        notes: Mismatches between the file and the fleet on the broker, and names that tasks need
            but that are hidden from them.
    """

    invalid: tuple[Problem, ...]
    unreachable: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def check(
    find_file: Callable[[], Path],
    settings: Settings,
    environ: Mapping[str, str],
    *,
    servers: bool = False,
) -> Checked:
    """Check the collection file, the broker and the sink; no file given counts as a problem.

    Args:
        find_file: Finds the collection file.
        settings: Where the broker and the sink are.
        environ: Where contexts find their ``${VARIABLES}``.
        servers: Start each MCP server of the agents once.
    """
    invalid: list[Problem] = []
    unreachable: list[Problem] = []
    notes: list[str] = []
    attempts: tuple[Callable[[], None], ...] = (
        lambda: _check_file(find_file(), settings, environ, servers=servers),
        lambda: notes.extend(_hidden(find_file, settings, environ)),
        lambda: notes.extend(_notes(find_file, settings)),
        lambda: _check_sink(settings),
    )
    for attempt in attempts:
        try:
            attempt()
        except ConfigError as error:
            invalid += error.problems
        except (Unreachable, StoreError) as error:
            unreachable.append(Problem(str(error)))
    return Checked(tuple(invalid), tuple(unreachable), tuple(notes))


def _check_sink(settings: Settings) -> None:
    if is_absent(settings.sink):
        return
    if is_searchable(settings):
        with suppress(ConfigError, Unreachable):  # The other way reports what is wrong.
            open_archive(settings).close()
            return
    open_sink(settings).close()


def _notes(find_file: Callable[[], Path], settings: Settings) -> list[str]:
    """Open the broker and compare; an invalid file was already reported."""
    if is_absent(settings.broker):
        return []
    with closing(open_to_read(settings)) as store:
        try:
            collections, problems = read(find_file(), settings.max_queue_size)
        except ConfigError:
            return []
        if problems:  # The defaults in place of invalid values would differ from the broker's.
            return []
        stats = store.stats()
    return list(misfits(stats, [each for each in collections if each.name]))


def _hidden(
    find_file: Callable[[], Path], settings: Settings, environ: Mapping[str, str]
) -> list[str]:
    """Notes on hidden names in scheduled tasks; an unreadable file was already reported.

    Raises:
        ConfigError: With the names that keep tasks from running.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    with suppress(ConfigError):
        for each in read(find_file(), settings.max_queue_size)[0]:
            found = _hidden_from(each, environ)
            problems += [problem for one in found for problem in one.problems]
            notes += [str(note) for one in found for note in one.notes]
    if problems:
        raise ConfigError(problems)
    return notes


def _hidden_from(collection: Collection, environ: Mapping[str, str]) -> list[HiddenNames]:
    contexts, found = contexts_of([collection], environ), []
    for path in dict.fromkeys(spec.tasks_file for spec in collection.schedule):
        with suppress(ConfigError):
            found.append(hidden_names(path, contexts, asks_templates=_asks(collection)))
    return found


def _asks(collection: Collection) -> bool:
    """Whether its agents replace templates in questions."""
    config = load_agent_config(collection.config_file)
    return config.type == NATIVE_ENGINE or is_theirs(config)


def _check_file(
    path: Path, settings: Settings, environ: Mapping[str, str], *, servers: bool
) -> None:
    """Check the file, and what its readable parts refer to."""
    collections, problems = read(path, settings.max_queue_size)
    # One agent of each is enough; the number may be wrong, and of any size.
    complete = [replace(each, number=1) for each in collections if each.config_file != Path()]
    for attempt in (
        lambda: resolve_contexts(collections, environ),
        lambda: make_runners(complete, environ),
        lambda: check_files(collections),
        lambda: check_servers(complete, environ, start=servers),
    ):
        try:
            attempt()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(_sorted(problems))


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once; files in their order of appearance, then by line."""
    unique = list(dict.fromkeys(problems))
    files = list(dict.fromkeys(each.file for each in unique))
    return sorted(unique, key=lambda each: (files.index(each.file), each.line))
