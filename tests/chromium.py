"""The browser that the pages are looked at with."""

from __future__ import annotations

import os

from brokers.install import program
from docs.pictures import pages
from tests.servers import required


def chromium() -> str:
    """The machine's, or Debian's, which is installed as the servers are."""
    with required():
        return pages.chromium() or program("chromium", "chromium", os.environ)
