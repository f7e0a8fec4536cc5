"""The command line: parse, call one function, print.

``commands`` lists the commands. Each has a module of its name (``try_`` for the keyword ``try``)
with ``add(parser)``, which adds the arguments, and ``run(args)``, which returns the exit code. Only
the module of the command in use is imported.
"""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run one command; print its error, if any; return its exit code."""
    try:  # The imports take most of a short command's time: Ctrl-C often meets them.
        from agentpipe.cli.program import run

        return run(argv)
    except KeyboardInterrupt:
        from agentpipe.cli.exit_codes import INTERRUPTED

        return INTERRUPTED
