"""Start a program with a server's URL as its last argument, without the URL's password.

``python hide_password.py URL_VARIABLE PASSWORD_VARIABLE PROGRAM [ARGUMENT...]`` reads the URL from
the environment and passes the password to the program in the environment. This must stay a single
file that does not import agentpipe: MCP-Universe's code runs it by its path.
"""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote

_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:(?P<user>[^:/?#]*)(?::(?P<password>.*))?@)?")
_PARAMETER = re.compile(r"(?<=[?&])password=([^&#]*)&?")


def split(url: str) -> tuple[str, str]:
    """Return the URL without its password, and the password.

    Raises:
        ValueError: It is not a URL, so its password cannot be located.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError("write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    parameter = _PARAMETER.search(url, match.end())
    rest = _PARAMETER.sub("", url[match.end() :]).rstrip("?&")
    if match["user"] is not None:
        rest = f"{match['user']}@{rest}"
    password = match["password"] or (parameter[1] if parameter else "")
    return match["scheme"] + rest, unquote(password)


def main(url_variable: str, password_variable: str, *command: str) -> None:
    """Replace this process with the program."""
    try:
        url, password = split(os.environ.pop(url_variable, ""))
    except ValueError as error:
        sys.stderr.write(f"{url_variable}: {error}\n")
        sys.exit(os.EX_CONFIG)
    if password:
        os.environ[password_variable] = password
    os.execvp(command[0], [*command, url])  # noqa: S606 - no shell


if __name__ == "__main__":
    main(*sys.argv[1:])
