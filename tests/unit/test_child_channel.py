"""A child's channel to its worker."""

from __future__ import annotations

import socket

from agentpipe.engines.process import child


def test_a_child_whose_worker_leaves_before_it_has_an_agent_ends_quietly() -> None:
    ours, of_child = socket.socketpair()
    ours.close()
    child.serve(of_child)
