"""The password of a model server's URL, which the server repeats, is shown nowhere."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.llm_stub import LlmStub, Reply, fail, say

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Project
    from tests.llm_stub import Request

# What a URL has in place of a slash and a space.
PASSWORD, WRITTEN = "geheim/wort 47", "geheim%2Fwort%2047"
# A client that sends the URL's user and password, as curl and httpx do.
PROGRAM = """
import base64, json, os, sys, urllib.error, urllib.parse, urllib.request
task = json.load(sys.stdin)
url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
credential = urllib.parse.unquote(url.netloc.rpartition("@")[0])
body = {"messages": [{"role": "user", "content": task["question"]}]}
headers = {"Authorization": "Basic " + base64.b64encode(credential.encode()).decode()}
place = f"http://{url.netloc.rpartition('@')[2]}{url.path}/chat/completions"
try:
    asked = urllib.request.Request(place, json.dumps(body).encode(), headers)
    print(urllib.request.urlopen(asked).read().decode())
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
"""


def repeat(request: Request) -> Reply:
    """Repeat the credential, in each of the ways in which it was sent."""
    kind, _, sent = request.authorization.partition(" ")
    assert kind == "Basic"
    user, _, password = base64.b64decode(sent).decode().partition(":")
    assert (user, password) == ("me", PASSWORD)
    text = f"{user} sent {password}, in {sent}, by http://{user}:{WRITTEN}@here"
    statuses = {"answer": 200, "fail": 500, "refuse": 401}
    status = statuses[request.question]
    return say(text) if status == 200 else fail(status, {"error": {"message": text}})


# A command has its own process, and gets no variables of its worker unless it is recorded.
SHORT = [
    ("llm", "off", "config"),
    ("llm", "try", "process"),
    ("command", "off", "context"),
    ("command", "try", "worker"),
]
LONG = [
    *(("llm", "off", kind) for kind in ("context", "worker", "process")),
    *(("llm", "try", kind) for kind in ("config", "context", "worker")),
    ("command", "off", "config"),
    *(("command", "try", kind) for kind in ("config", "context")),
]


@pytest.mark.parametrize(
    ("type_", "record", "kind"),
    [*SHORT, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)],
)
def test_a_password_in_a_models_url_is_shown_nowhere(
    project: Project, type_: str, record: str, kind: str
) -> None:
    with LlmStub(repeat) as stub:
        url = stub.url.replace("//", f"//me:{WRITTEN}@")
        configs: dict[str, dict[str, Any]] = {
            "llm": {"model": "openai:m"},
            "command": {"argv": [sys.executable, "{{ here }}/program.py"]},
        }
        own = {"base_url": url} if kind in {"config", "process"} else {}
        spec = {"name": "it", "type": type_, "config": {**configs[type_], **own}}
        config = project.write("it.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
        program = project.write("program.py", PROGRAM)
        env = {"OPENAI_BASE_URL": url} if kind == "context" else {}
        project.collection(
            config="./it.yaml",
            context=[{"env": env}],
            isolation="process" if kind == "process" else "coroutine",
            max_retries=0,
            breaker=0,
            record={"tokens": record},
        )
        project.send("answer", "fail", "refuse")
        environ = {"OPENAI_BASE_URL": url} if kind == "worker" else {}
        worked = project.burst("--processes", "1", env={**environ, "AGENTPIPE_LOG_LEVEL": "DEBUG"})
    assert len(stub.requests) == 3
    results = {result["question"]: result for result in map(_asked, project.results())}
    assert "me sent ***" in results["answer"]["result"]
    written = {config, program, project.folder / "collection.yaml"}
    texts = [worked.out.encode(), worked.err.encode(), *_contents(project.folder, written)]
    for shown in (PASSWORD, WRITTEN, base64.b64encode(f"me:{PASSWORD}".encode()).decode()[4:]):
        assert not any(shown.encode() in text for text in texts)


def _asked(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "question": result["task"]["question"]}


def _contents(folder: Path, left_out: set[Path]) -> list[bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path not in left_out]
    return [path.read_bytes() for path in files if path.suffix not in {".pyc", ".py"}]
