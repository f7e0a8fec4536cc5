"""The end of each command's help: examples and exit codes."""

from __future__ import annotations

_CODES = """exit codes: 0 ok, 1 failed, 2 usage or config, 3 queue full,
4 server unreachable, 5 {partly}, 130 interrupted"""
EXIT_CODES = _CODES.format(partly="partly")
_PARTLY = {"compare": "B is worse than A beyond chance"}
EXAMPLES = {
    "send": (
        "send evals --file tasks.jsonl -c collection.yaml",
        'send evals "What is 2 + 2?" --wait',
        "send evals --file tasks.jsonl --run v2 --samples 4 --budget-usd 20",
    ),
    "tail": ("tail --from beginning --json > results.jsonl", "tail --group trainer --limit 100"),
    "work": ("work -c collection.yaml", "work --processes 4 --slots 250 --burst"),
    "try": ('try evals "What is 2 + 2?"', "try evals --task tasks.jsonl:3 --context 1"),
    "status": ("status", "status --json"),
    "top": ("top", "top --once", "top --run v2"),
    "metrics": ("metrics", "metrics --host 0.0.0.0 --port 9100"),
    "web": ("web", "web --host 0.0.0.0 --token-file token.txt"),
    "check": ("check collection.yaml", "check agents/ benchmarks/"),
    "export": (
        "export --run v2 --to parquet v2.parquet",
        "export --to csv --no-trace - | head",
        "export --run v2 --to inspect v2.eval",
    ),
    "report": ("report --collection evals", "report --run v2 --by context --pass-k 1,4"),
    "compare": ("compare v1 v2", "compare v1 v2 --by metadata.level --json"),
    "collect": (
        "collect --sink kafka://localhost/results --to results.db",
        "collect --to results.db --follow",
    ),
    "archive": ("archive trim --before 30d", "archive vacuum --yes", "archive info"),
    "runs": ("runs", "runs show v2", "runs drop v2"),
    "retry": ("retry --run v2 --dry-run", "retry --run v2 --outcome limit --error tokens"),
    "rescore": ("rescore --run v2 --evaluators stricter.yaml --to-run v2-strict",),
    "dead": ("dead list --group-by error", "dead replay --error ConnectionError --yes"),
    "schedule": ("schedule list", "schedule run"),
    "pause": ("pause evals",),
    "resume": ("resume evals",),
    "drain": ("drain WORKER", "drain --here --wait", "drain --all --wait --timeout 600"),
    "serve-env": ("serve-env -c collection.yaml", "serve-env --port 5001 --name second"),
    "policy": ("policy show main", "policy publish main --version 8"),
    "cancel": ("cancel TASK", "cancel --collection evals"),
    "purge": ("purge evals", "purge"),
    "rebalance": ("rebalance evals --dry-run", "rebalance evals"),
    "show": ("show TASK", "show TASK --messages"),
    "why": ("why TASK", "why --run v2"),
    "doctor": ("doctor", "doctor --broker redis://localhost --json"),
    "chaos": ("chaos", "chaos --tasks 1000 --kills 50 --json", "chaos --clean"),
    "probe": ("probe live", "probe ready"),
    "deploy": (
        "deploy kubernetes -c collection.yaml --image registry/agents:1",
        "deploy systemd -c collection.yaml",
    ),
    "completion": ("completion bash", "completion fish"),
    "init": ("init trial", "init moved --from-mcp-universe benchmarks/"),
}


def epilog(command: str) -> str:
    """The end of a command's help."""
    lines = [f"  agentpipe {example}" for example in EXAMPLES.get(command, ())]
    codes = _CODES.format(partly=_PARTLY.get(command, "partly"))
    return "\n".join(["examples:", *lines, "", codes]) if lines else codes
