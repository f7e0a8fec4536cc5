"""Measures speed and memory, each beside a reference of the same run: ``make bench``.

Absolute numbers hold for one machine; ratios can be compared. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from bench import on_agents, on_archive, on_servers, starting

# Runs and exports need no server.
SERVERS = ("sqlite", "redis", "rabbitmq", "kafka", "runs", "exports")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bench", description=__doc__)
    parser.add_argument("servers", nargs="*", help=f"of {', '.join(SERVERS)}; default: all")
    asked = parser.parse_args().servers
    starting.measure()
    if not asked:
        on_agents.measure()
        on_servers.measure()
        on_archive.measure()
    for name in SERVERS:
        if name in asked or not asked:
            sys.stdout.write(f"\n{name}\n")
            import_module(f"bench.on_{name}").measure()


if __name__ == "__main__":
    main()
