"""What runs inside a Python that has mcpuniverse: one agent per process.

A parent puts the folder of this package on ``sys.path``, calls ``host.preload()`` once, forks a
child per agent, and calls ``host.serve(socket)`` in it. This is another environment than
agentpipe's: nothing here imports agentpipe, and mcpuniverse is imported in functions only.
"""

from __future__ import annotations

from .preload import preload
from .session import serve

__all__ = ["preload", "serve"]
