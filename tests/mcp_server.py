"""An MCP server that misbehaves on request; uses only the standard library.

``python mcp_server.py [rubbish] [hang] [die] [loud] [brief]``: it writes lines that are not
messages, never answers, exits at once, writes to stderr, or exits after listing its tools.

Its tools: ``echo``, ``environ`` (the value of an environment variable), ``pid``, ``fail``,
``crash``, ``freeze``, ``noise``, ``damaged`` (a reply with random damage; its argument is the
seed), ``result`` (returns the given JSON), ``line`` (writes the given base64 as its whole line,
with ``ID`` replaced by the id), ``error`` (a JSON-RPC error with the given code), ``leave``
(answers, then exits) and ``grow`` (adds a tool to its list).
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = [
    *("echo", "environ", "pid", "fail", "crash", "freeze", "noise"),
    *("damaged", "result", "line", "error", "leave", "grow"),
]


def main(habits: list[str]) -> None:
    if "die" in habits:
        sys.exit("no licence found")
    if "loud" in habits:
        sys.stderr.write("starting\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "rubbish" in habits:
            write("{not json\n\x00\x1b[31mred")
        if "hang" in habits:
            time.sleep(600)
        if "id" in request:
            answer(request)
        if "brief" in habits and request["method"] == "tools/list":
            sys.exit()


def answer(request: dict[str, Any]) -> None:
    match request["method"]:
        case "initialize":
            result: dict[str, Any] = {
                "protocolVersion": request["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "odd", "version": "1"},
            }
        case "tools/list":
            tools = [{"name": name, "description": name, "inputSchema": TEXT} for name in TOOLS]
            result = {"tools": tools}
        case "tools/call":
            name = request["params"]["name"]
            if name in SPECIAL:
                SPECIAL[name](request["id"], request["params"]["arguments"].get("text", ""))
                return
            result = call(**request["params"])
        case _:
            result = {}
    write(json.dumps(reply(request["id"], result=result)))


def send_damaged(number: int, text: str) -> None:
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.mutations import mutated

    result = {"content": [{"type": "text", "text": text}], "isError": False}
    send_line(mutated(json.dumps(reply(number, result=result)).encode(), int(text)))


def send_given_line(number: int, text: str) -> None:
    send_line(base64.b64decode(text).replace(b"ID", str(number).encode()))


def send_result(number: int, text: str) -> None:
    send_line(json.dumps(reply(number, result=json.loads(text))).encode())


def send_error(number: int, text: str) -> None:
    error = {"code": int(text), "message": "the server's own words"}
    send_line(json.dumps(reply(number, error=error)).encode())


def leave(number: int, _text: str) -> None:
    send_result(number, '{"content": [{"type": "text", "text": "bye"}]}')
    sys.exit()


def grow(number: int, _text: str) -> None:
    TOOLS.append("late")
    send_line(b'{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}')
    send_result(number, '{"content": [{"type": "text", "text": "grown"}]}')


SPECIAL = {
    "damaged": send_damaged,
    "line": send_given_line,
    "result": send_result,
    "error": send_error,
    "leave": leave,
    "grow": grow,
}


def reply(number: int, **what: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, **what}


def send_line(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def call(name: str, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
    text = arguments.get("text", "")
    match name:
        case "environ":
            text = os.environ.get(text, "not set")
        case "pid":
            text = str(os.getpid())
        case "crash":
            sys.stderr.write("out of luck\n")
            os._exit(1)
        case "freeze":
            time.sleep(600)
        case "noise":
            write("noise " * 1_000)
    return {"content": [{"type": "text", "text": text}], "isError": name == "fail"}


if __name__ == "__main__":
    main(sys.argv[1:])
