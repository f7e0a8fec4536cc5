"""The code that runs inside a Python with mcpuniverse: one agent per process.

The parent puts this package's folder on ``sys.path``, calls ``host.preload()`` once, forks a child
per agent, and calls ``host.serve(socket)`` in it. This environment is not agentpipe's: nothing here
imports agentpipe, and mcpuniverse is imported in functions only.

Both sides send JSON objects, one per line. The parent sends, one task at a time::

    {"open": {"config": YAML, "prompts": {}, "context": {"env", "metadata"}, "servers": {}}}
    {"task": {"question", "evaluators", "prepares", "cleanups", "seed", ...}}
    {"cancel": true}

The child answers ``{"ready": true}``, then for each task ``{"span": {...}}`` as spans end, and::

    {"done": {"answer", "evaluations", "usage"}}
    {"error": what ``failure.error_record`` returns}

An evaluation that itself failed is ``broken``. An error with ``"stuck": true`` means that the run
was abandoned and may still be running: the process still serves, but a new one is better.
"""

from __future__ import annotations

from .preload import preload
from .session import serve

__all__ = ["preload", "serve"]
