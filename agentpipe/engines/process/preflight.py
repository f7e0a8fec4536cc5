"""Preflight: ``python -m agentpipe.engines.process.preflight FILE`` checks an agent config.

It imports the user's modules in its own process instead of the worker. The last line on stdout is a
list of ``{message, file, line}``, empty for a valid config.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import orjson

from agentpipe.config.agent_config import load_agent_config
from agentpipe.engines.base import open_engine
from agentpipe.engines.process.child import preload
from agentpipe.engines.process.forking import become
from agentpipe.errors import ConfigError


def main(file: str) -> None:
    """Open the config's engine and print its problems; stdin has one context's env and user."""
    problems = []
    given = orjson.loads(sys.stdin.buffer.read())
    preload()  # The user may not have read access to our files.
    if given["user"] is not None:
        become(given["user"])
    os.environ.update(given["env"])
    try:
        open_engine(load_agent_config(file))
    except ConfigError as error:
        problems = [asdict(problem) for problem in error.problems]
    sys.stdout.write(f"\n{orjson.dumps(problems).decode()}\n")


if __name__ == "__main__":
    main(sys.argv[1])
