"""A Python agent that asks its model twice: text between the two answers is context."""

from __future__ import annotations

_FILE = 'kind: agent\nspec: {name: twice, type: python, config: {class: "mine:Twice"}}\n'
_AGENT = """
import json, urllib.request

def ask(env, messages):
    request = urllib.request.Request(
        env["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "m", "messages": messages}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + env["OPENAI_API_KEY"]})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]

class Twice:
    def execute(self, task, context):
        first = {"role": "user", "content": f"WORDS"}
        said = ask(context.env, [first])
        return ask(context.env, [first, said, {"role": "user", "content": "sure?"}])["content"]
"""


def files(words: str) -> dict[str, str]:
    """The agent's files; ``words`` is its first question, as an f-string of ``task``."""
    return {"mine.py": _AGENT.replace("WORDS", words), "agent.yaml": _FILE}
