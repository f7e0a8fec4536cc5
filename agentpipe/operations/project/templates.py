"""The files of a sample project: one agent, its config, a collection and tasks."""

from __future__ import annotations

AGENT_PY = '''\
"""An agent that adds the numbers in a question. Put a model in its place."""

import re


class Adder:
    def __init__(self, unit=""):  # The other keys of its config.
        self.unit = unit

    async def execute(self, task, context):  # Or a plain def: then it runs in a thread.
        numbers = re.findall(r"-?\\d+", task.question)
        return {"sum": sum(map(int, numbers)), "unit": self.unit}
'''
AGENT_YAML = """\
# The class and its arguments.
kind: agent
spec:
  name: adder
  type: python
  config: {class: "agent.py:Adder", unit: apples}
"""
COLLECTION_YAML = """\
# agentpipe check collection.yaml
kind: collection
spec:
  name: adder
  config: ./agent.yaml
  number: 2             # agents, each with its own queue
  max_queue_size: 100   # waiting tasks per agent
  time_limit: 60        # seconds per task
"""
TASKS = """\
{"task_id": "add-1", "question": "3 apples and 4 apples?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 7}]}
{"task_id": "add-2", "question": "10 apples and -2 apples?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 8}]}
{"task_id": "add-3", "question": "No apples at all?", "evaluators": \
[{"func": "json -> get(sum)", "op": "=", "value": 0}]}
"""
README = """\
# A project for agentpipe

`agent.py` is the agent, `agent.yaml` its config, `collection.yaml` says how many of it run and
within which limits. `tasks.jsonl` holds one task per line, with its evaluators.

```sh
{commands}
```

`agentpipe doctor` examines this machine and the servers, with advice.
"""
GITIGNORE = ".agentpipe/\n__pycache__/\n"
