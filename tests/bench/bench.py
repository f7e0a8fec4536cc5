"""Figures, each beside something of the same run: ``make bench``, or with brokers by name.

Absolute numbers are this machine's; the ratios travel. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from tests.bench import starting

BROKERS = ("sqlite", "redis", "rabbitmq")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench", description=__doc__)
    parser.add_argument("brokers", nargs="*", help=f"of {', '.join(BROKERS)}; default: all")
    asked = parser.parse_args().brokers
    starting.measure()
    for name in BROKERS:
        if name in asked or not asked:
            sys.stdout.write(f"\n{name}\n")
            import_module(f"tests.bench.on_{name}").measure()


if __name__ == "__main__":
    main()
