"""An agent in Python that asks its model twice: what stands between the answers is context."""

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
    """Its files; ``words`` is what it asks first, as an f-string of ``task``."""
    return {"mine.py": _AGENT.replace("WORDS", words), "agent.yaml": _FILE}
