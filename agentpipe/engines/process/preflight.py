"""Preflight: ``python -m agentpipe.engines.process.preflight FILE`` opens a config's engine.

Its last line on stdout is a list of ``{message, file, line}``, empty where all is well. The
user's modules are imported here and not in the worker.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

import orjson

from agentpipe.config.agent_config import load_agent_config
from agentpipe.engines.base import open_engine
from agentpipe.errors import ConfigError


def main(file: str) -> None:
    """Print what is wrong with the config."""
    problems = []
    try:
        open_engine(load_agent_config(file))
    except ConfigError as error:
        problems = [asdict(problem) for problem in error.problems]
    sys.stdout.write(f"\n{orjson.dumps(problems).decode()}\n")


if __name__ == "__main__":
    main(sys.argv[1])
