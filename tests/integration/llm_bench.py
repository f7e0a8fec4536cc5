"""An llm agent without a worker, with a loopback model and real MCP servers."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import yaml

from agentpipe.config.agent_config import load_agent_config
from agentpipe.core.context import Context
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.base import open_engine
from agentpipe.engines.instance import Instance
from agentpipe.errors import AgentpipeError

ODD = str(Path(__file__).parents[1] / "mcp_server.py")
# Part of the command line of each server that is started here.
MARK = uuid.uuid4().hex
KEY = "sk-of-the-context-4711"
PATIENCE_S = 30.0


class Bench:
    """Runs an agent from one config, without a worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: dict[str, Any] = {}
        self.tracer = Tracer()
        self.stop: str | None = None

    def odd(self, *habits: str, **more: Any) -> dict[str, Any]:
        """The misbehaving MCP server, as an entry of ``servers``."""
        return {"name": "odd", "command": sys.executable, "args": [ODD, *habits, MARK], **more}

    def engine(self, url: str, **config: Any) -> Any:
        """The engine of an llm agent with its model at ``url``."""
        own = {"model": "openai:gpt-4o-mini", "base_url": url, **config}
        return self.open(
            {"kind": "agent", "spec": {"name": "it", "type": "llm", "config": own}},
        )

    def open(self, *documents: dict[str, Any]) -> Any:
        """The engine of these config documents."""
        file = self._folder / "agent.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        return open_engine(load_agent_config(file))

    def ask(self, engine: Any, *tasks: Task | str, env: dict[str, str] | None = None) -> list[Any]:
        """The answer or error of one instance for each task in order; the instance is then closed.

        Sets ``stop`` to that of the last answer.
        """
        context = Context({"OPENAI_API_KEY": KEY} if env is None else env)

        async def ask() -> list[Any]:
            instance = Instance("it", engine, context, in_thread=False)
            ends = []
            for task in tasks:
                self.tracer = Tracer()
                try:
                    with self.tracer.root():
                        question = task if isinstance(task, Task) else Task(question=task)
                        answer = await instance.answer(question, PATIENCE_S)
                    ends.append(answer.value)
                    self.stop = answer.stop
                except AgentpipeError as error:
                    ends.append(error)
            await instance.close()
            return ends

        return asyncio.run(ask())

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The last run's trace records of this type."""
        records = [record["data"] for span in self.tracer.spans for record in span["records"]]
        return [record for record in records if record["type"] == kind]
