"""An agent with its own client, like users' agents: as a class and as a program."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

AGAIN = ("Are you sure?", "Say it again, shorter.")


def talk(
    question: str,
    env: Mapping[str, str],
    turns: int,
    *,
    stream: bool,
    wait: Callable[[], None] = lambda: None,
) -> str:
    """The last answer; calls ``wait`` between two turns."""
    messages = [{"role": "user", "content": question}]
    for turn in range(turns):
        if turn:
            wait()
        answer = ask(messages, env, stream=stream)
        messages.append({"role": "assistant", "content": answer})
        messages.append({"role": "user", "content": AGAIN[turn % 2]})
    return answer


def ask(messages: list[dict[str, str]], env: Mapping[str, str], *, stream: bool) -> str:
    body = {"model": "small", "messages": messages, "stream": stream}
    headers = {
        "content-type": "application/json",
        "authorization": f"Bearer {env['OPENAI_API_KEY']}",
    }
    url = f"{env['OPENAI_BASE_URL']}/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=1_800) as response:
        return text_of(response) if stream else str(choice_of(json.load(response))["content"])


def text_of(lines: Iterable[bytes]) -> str:
    """The text of a streamed answer."""
    pieces = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: {")]
    chunks = [each for each in map(json.loads, pieces) if each["choices"]]
    return "".join(choice_of(each, "delta").get("content") or "" for each in chunks)


def choice_of(answer: dict[str, Any], kind: str = "message") -> dict[str, Any]:
    found: dict[str, Any] = answer["choices"][0][kind]
    return found


class Asks:
    def __init__(self, turns: int = 3, *, stream: bool = False) -> None:
        self.turns, self.stream = turns, stream

    def execute(self, task: Any, context: Any) -> str:
        return talk(task.question, context.env, self.turns, stream=self.stream)


class Parity(Asks):
    """About every second answer is right, with any weights, so most groups have both rewards.

    The first run of each group waits for the trainer's next weights between its turns.
    """

    def execute(self, task: Any, context: Any) -> str:
        wait = next_weights if task.sample_index == 0 else nothing
        answer = talk(task.question, context.env, self.turns, stream=self.stream, wait=wait)
        return "odd" if len(answer) % 2 else "even"


def nothing() -> None:
    pass


def next_weights() -> None:
    """Wait while the trainer trains, which needs no run and ends with new weights."""
    journal = Path(__file__).with_name("trainer.jsonl")
    while '"at": "used"' in journal.read_text().splitlines()[-1]:
        time.sleep(0.05)


if __name__ == "__main__":
    asked = json.load(sys.stdin)["question"]
    sys.stdout.write(talk(asked, os.environ, 3, stream="stream" in sys.argv))
