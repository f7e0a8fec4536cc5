"""AgentPipeline: the interface that MCP-Universe's users know, over our Dispatcher and Stream."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from agentpipe.config.collection import load
from agentpipe.connections.environment import (
    MQ_TYPES,
    PEER_GROUP,
    names_a_queue,
    unknown_mq_type,
)
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, QueueFull, TaskError
from agentpipe.sending.admission import admit
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from agentpipe.config.collection import Collection
    from agentpipe.sinks.base import Start


class AgentPipeline:
    """Sends tasks to the collections of a file, and reads the results of all of them.

    It reads names and limits from the file, but no agent config. It connects to the broker for the
    first task, and to the sink for the first result. Both are configured by environment variables,
    as for every command. With MCP-Universe's variables, ``mq_type`` chooses between Kafka and
    RabbitMQ. Close it, or use it in a ``with`` block.

    Args:
        config_path: The collection file.
        max_queue_size: Default for collections that do not set their own.
        mq_type: ``kafka`` or ``rabbitmq``.
        settings: Used instead of the environment.
    """

    def __init__(
        self,
        config_path: str | Path,
        max_queue_size: int = 100,
        mq_type: str = "kafka",
        *,
        settings: Settings | None = None,
    ) -> None:
        if mq_type not in MQ_TYPES:
            raise ConfigError(unknown_mq_type(mq_type))
        if settings is None:
            settings = Settings.from_env(os.environ, _choice(os.environ, mq_type))
        self._path = Path(config_path)
        self.settings = replace(settings, collection_file=self._path, max_queue_size=max_queue_size)
        self._collections = load(self._path, max_queue_size)
        self._dispatcher: Dispatcher | None = None

    def send_task(
        self, agent_collection_name: str, task_config: Any, metadata: dict[str, Any] | None = None
    ) -> bool:
        """Send a task; return False only if every queue is full.

        Args:
            agent_collection_name: The collection to send to.
            task_config: A ``Task``, an object of its fields, MCP-Universe's ``TaskConfig``, the
                path of a JSON file, JSON itself, or the question.
            metadata: Merged into the task's own metadata.

        Raises:
            ConfigError: The file has no such collection.
            TaskError: The task is malformed.
            Unreachable: The broker does not answer.
        """
        collection = self._find(agent_collection_name)
        task = admit(_task_data(task_config), collection.task_rules)
        if metadata:
            task = admit(replace(task.task, metadata={**task.task.metadata, **metadata}))
        try:
            self._sender().send(agent_collection_name, task)
        except QueueFull:
            return False
        return True

    def delete_all_tasks(self) -> int:
        """Cancel all waiting tasks of the file's collections; return how many were cancelled.

        Running tasks finish. The Results of cancelled tasks go to the outbox, and workers deliver
        them.
        """
        from agentpipe.brokers import open_store
        from agentpipe.operations.cancel import purge

        store = open_store(self.settings)
        try:
            return sum(purge(store, collection.name) for collection in self._collections)
        finally:
            store.close()

    def pull_task_outputs(
        self,
        limit: int | None = None,
        timeout: float | None = None,
        group: str | None = PEER_GROUP,
        *,
        start: Start = "beginning",
        commit_every: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """Yield results as they arrive, each with all the fields of a ``Result``.

        A result counts as consumed when the caller asks for the next one. A ``group`` continues
        after its last consumed result.

        Args:
            limit: Stop after this many results.
            timeout: Stop after this many seconds without a result; None waits forever.
            group: The consumer group; None stores no position.
            start: Where a group without a stored position starts.
            commit_every: Number of results per commit of the position.

        Raises:
            ConfigError: The sink's URL is invalid.
            Unreachable: The sink does not answer.
        """
        if limit is not None and limit < 1:
            return
        with Stream.open(
            self.settings, group=group, start=start, timeout_s=timeout, commit_every=commit_every
        ) as stream:
            for number, result in enumerate(stream, 1):
                if number == limit:
                    stream.stop()
                yield result.to_dict()

    def start_celery_workers(self) -> int:
        """Run workers until a signal, like ``agentpipe work``; the name is MCP-Universe's."""
        from agentpipe.worker.fleet.serving import serve

        return serve(self._path, self.settings)

    def close(self) -> None:
        """Close the connections that this object opened."""
        if self._dispatcher is not None:
            self._dispatcher.close()
            self._dispatcher = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _sender(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher.open(self._collections, self.settings, results=False)
        return self._dispatcher

    def _find(self, name: str) -> Collection:
        named = {collection.name: collection for collection in self._collections}
        if name not in named:
            raise ConfigError(unknown("collection", name, named, f"in {self._path}"))
        return named[name]


def TaskConfig(**fields: Any) -> Task:  # noqa: N802 - MCP-Universe's name
    """Create a Task from MCP-Universe's keywords; unknown keywords are dropped, as in MCP-Universe.

    Raises:
        TaskError: A field has the wrong type.
    """
    return Task.load(fields)


def _choice(environ: Mapping[str, str], mq_type: str) -> str | None:
    """Return the type if one must be chosen; with nothing set the embedded stream is used."""
    if environ.get("AGENTPIPE_SINK"):
        return None
    return mq_type if names_a_queue(environ) or mq_type != MQ_TYPES[0] else None


def _task_data(given: Any) -> Any:
    """Convert a task to a form that ``admit`` can read."""
    if hasattr(given, "model_dump"):  # MCP-Universe's TaskConfig is a pydantic model.
        return given.model_dump(mode="json")
    if isinstance(given, Path) or (isinstance(given, str) and given.endswith(".json")):
        return _parsed(_text_of(Path(given)), str(given))
    if isinstance(given, str) and given.lstrip().startswith("{"):
        return _parsed(given, "the task")
    return given


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read: {error}") from error


def _parsed(text: str, name: str) -> Any:
    from agentpipe.config.lined_json import LinedReader

    try:
        return LinedReader(text, name).read()
    except ConfigError as error:
        raise TaskError(*error.lines) from error
