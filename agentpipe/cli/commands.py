"""The commands, in the groups and the order in which the help shows them."""

from __future__ import annotations

from keyword import iskeyword

GROUPS = {
    "prepare": {
        "init": "create a project that runs: a collection, an agent and tasks",
        "check": "validate a collection and its servers, or say how files run",
        "try": "run one task in this process, without a broker, and show it",
        "doctor": "examine versions, servers, clocks and limits, with advice",
    },
    "run": {
        "send": "submit tasks to a collection",
        "work": "run workers",
        "schedule": "send task files at their cron times, or list the next times",
        "serve-env": "serve a collection to prime-rl as an environment",
        "policy": "show, publish, pause or resume the policy of a trainer",
    },
    "watch": {
        "status": "show task counts, agents and workers",
        "top": "watch the fleet and its bottleneck in the terminal",
        "why": "explain where tasks are and why they are not done",
        "web": "serve read-only pages of the fleet, of runs and of tasks",
        "metrics": "serve counts, times and states of the fleet to Prometheus",
    },
    "results": {
        "tail": "follow the stream of results",
        "show": "show a result: question, answer, verdicts, cost and trace",
        "report": "summarize a run or the stream: outcomes, pass rate, times",
        "compare": "compare two runs, task by task",
        "runs": "list runs, show where one comes from, or forget one",
        "retry": "send the failed tasks of a run again",
        "rescore": "judge stored answers of a run again, without its agents",
        "export": "write results to a file: JSONL, CSV, Parquet, inspect_ai",
        "collect": "keep the stream of a server in an archive, for searches",
        "archive": "trim or shrink an archive, or show its size",
    },
    "intervene": {
        "cancel": "cancel waiting and running tasks",
        "purge": "cancel all waiting tasks",
        "pause": "pause agents or collections: workers take no tasks of theirs",
        "resume": "resume paused agents or collections, or raise a budget",
        "dead": "list, show, replay or drop dead letters",
        "rebalance": "give waiting tasks of removed agents to the remaining ones",
        "drain": "let workers finish their runs, take nothing new, and end",
    },
    "deploy": {
        "deploy": "print Kubernetes manifests or systemd units for a fleet",
        "probe": "check that workers of this machine live, or can take tasks",
        "chaos": "kill and cut off scratch workers on your servers, and count",
        "completion": "print a shell completion script",
    },
    "for MCP-Universe": {
        "start-workers": "run workers, with the options of MCP-Universe",
        "consume-outputs": "follow the stream, with the options of MCP-Universe",
        "clean-tasks": "cancel waiting tasks, with the options of MCP-Universe",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}


def module_of(command: str) -> str:
    """The command's module name, with ``_`` appended to a Python keyword."""
    name = command.replace("-", "_")
    return f"{name}_" if iskeyword(name) else name
