"""Measures speed and memory, each beside a reference of the same run: ``make bench``.

Absolute numbers hold for one machine; ratios can be compared. Linux only (/proc). Each group of
figures is a process of its own, keeps its rows in ``bench/recorded``, and can be run alone;
``docs/benchmarks.md`` is made from what was kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

from bench import document, recording
from bench.groups_of_figures import GROUPS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bench", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; default: all")
    asked = parser.parse_args().groups
    if unknown := set(asked) - set(GROUPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(GROUPS)}")
    if len(asked) == 1:
        measure(asked[0])
    else:
        for name in asked or GROUPS:
            measure_alone(name)
    document.write()


def measure(name: str) -> None:
    sys.stdout.write(f"\n{name}\n")
    with recording.recording(name):
        try:
            import_module(GROUPS[name].module).measure()
        except Exception as error:  # noqa: BLE001 - its server did not start: the rest counts
            recording.failed(f"the rest of {name}", error)


def measure_alone(name: str) -> None:
    """Measure in a separate process: its imports and children must not affect the next group."""
    subprocess.run([sys.executable, "-m", "bench.bench", name], check=False)


if __name__ == "__main__":
    main()
