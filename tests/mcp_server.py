"""An MCP server that misbehaves on request; it uses the standard library only.

``python mcp_server.py [rubbish] [hang] [die] [loud]``: it prints what is no message, never says
that it is ready, ends at once, or writes to stderr. Its tools are ``echo``, ``environ`` (the
value of a variable of its own), ``pid``, ``fail``, ``crash``, ``freeze``, ``noise`` and ``damaged``
(its reply has wounds that follow from the number that it is asked for).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOLS = ("echo", "environ", "pid", "fail", "crash", "freeze", "noise", "damaged")


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
            result = call(**request["params"])
            if request["params"]["name"] == "damaged":
                send_damaged({"jsonrpc": "2.0", "id": request["id"], "result": result}, result)
                return
        case _:
            result = {}
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))


def send_damaged(reply: dict[str, Any], result: dict[str, Any]) -> None:
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.mutations import mutated

    seed = int(result["content"][0]["text"])
    sys.stdout.buffer.write(mutated(json.dumps(reply).encode(), seed) + b"\n")
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
