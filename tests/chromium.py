"""The browser in which tests open web pages."""

from __future__ import annotations

import os

from brokers.install import program
from docs.pictures import pages
from tests.servers import required


def chromium() -> str:
    """The installed Chromium; otherwise Debian's, installed the same way as the servers."""
    with required():
        return pages.chromium() or program("chromium", "chromium", os.environ)
