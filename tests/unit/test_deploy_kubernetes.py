"""Kubernetes manifests: valid, without credentials, and true to the collection."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from agentpipe.brokers.redis import RedisStore
from agentpipe.cli import main
from agentpipe.cli.commands import COMMANDS
from agentpipe.cli.parser import parser_for
from agentpipe.config.collection import load
from agentpipe.deploy.cluster import Cluster
from agentpipe.deploy.keda import TRIGGERS, Scaling, Trigger
from agentpipe.deploy.kubernetes import as_yaml, manifests, name_of
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """kind: agent
spec:
  type: command
  config: {command: ["true"]}
"""
CANARY = "canary-4f1c"


def collection(name: str, env: str = "{}") -> str:
    return f"""kind: collection
spec:
  name: {name}
  config: agent.yaml
  time_limit: 90
  context:
    - env: {env}
"""


def made(folder: Path, text: str, **said: Any) -> list[dict[str, Any]]:
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "collection.yaml").write_text(text)
    collections = load(folder / "collection.yaml", 100)
    cluster = Cluster("registry/agents:1", **said)
    return list(yaml.safe_load_all(as_yaml(manifests(collections, cluster))))


def the(kind: str, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in documents if each["kind"] == kind]


def container(document: dict[str, Any]) -> dict[str, Any]:
    found = document["spec"]["template"]["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


REFERRING = collection("evals", "{KEY: '${TOKEN}', CERT: '${file:/run/keys/cert.pem}'}")


def test_manifests_fit_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    documents = made(tmp_path, f"{REFERRING}---\n{collection('Other_Name')}")
    assert len(documents) == 6
    for each in documents:
        kubernetes_validate.validate(each, "1.37", strict=True)


def test_each_deployment_has_its_collection_alone(tmp_path: Path) -> None:
    documents = made(tmp_path, f"# the first\n{REFERRING}--- # the second\n{collection('more')}")
    texts = [each["data"]["collection.yaml"] for each in the("ConfigMap", documents)]
    names = [yaml.safe_load(text)["spec"]["name"] for text in texts]
    assert names == ["evals", "more"]
    for deployment, name in zip(the("Deployment", documents), names, strict=True):
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        assert volumes[0]["configMap"]["name"] == name_of(name)


def test_credentials_are_referred_to(tmp_path: Path) -> None:
    (deployment,) = the("Deployment", made(tmp_path, REFERRING))
    variables = {each["name"]: each for each in container(deployment)["env"]}
    for name in ("AGENTPIPE_BROKER", "AGENTPIPE_SINK", "TOKEN"):
        assert variables[name]["valueFrom"]["secretKeyRef"] == {"name": "agentpipe", "key": name}
    (volume,) = (
        each for each in deployment["spec"]["template"]["spec"]["volumes"] if "secret" in each
    )
    assert volume["secret"]["items"] == [{"key": "cert.pem", "path": "cert.pem"}]
    mounts = {each["name"]: each["mountPath"] for each in container(deployment)["volumeMounts"]}
    assert mounts[volume["name"]] == "/run/keys"


def test_a_pod_has_time_for_a_run_and_its_evaluation(tmp_path: Path) -> None:
    (deployment,) = the("Deployment", made(tmp_path, REFERRING))
    grace_s = {each["name"]: each.get("value") for each in container(deployment)["env"]}
    assert grace_s["AGENTPIPE_GRACE_S"] == "180"
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 180


def test_pods_have_no_privilege(tmp_path: Path) -> None:
    (deployment,) = the("Deployment", made(tmp_path, REFERRING))
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_drains_before_it_ends_and_is_probed(tmp_path: Path) -> None:
    (deployment,) = the("Deployment", made(tmp_path, REFERRING))
    worker = container(deployment)
    command = worker["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:4] == ["agentpipe", "drain", "--here", "--wait"]
    longest_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 2 * 90 <= int(command[-1]) < longest_s
    variables = {each["name"]: each.get("value") for each in worker["env"]}
    file = variables["AGENTPIPE_HEARTBEAT_FILE"]
    assert any(file.startswith(f"{it['mountPath']}/") for it in worker["volumeMounts"])
    probes = {name: worker[f"{name}Probe"]["exec"]["command"] for name in ("liveness", "readiness")}
    assert probes == {
        "liveness": ["agentpipe", "probe", "live"],
        "readiness": ["agentpipe", "probe", "ready"],
    }
    for name, arguments in (*probes.items(), ("drain", command), ("work", worker["command"])):
        assert parser_for(COMMANDS).parse_args(arguments[1:]).run, name


def test_a_pod_asks_for_the_memory_of_its_runs_and_their_servers(tmp_path: Path) -> None:
    def asked(agent: str, **said: Any) -> str:
        (tmp_path / "agent.yaml").write_text(agent)
        collections = load(tmp_path / "collection.yaml", 100)
        documents = manifests(collections, Cluster("a:1", **said))
        resources = container(the("Deployment", documents)[0])["resources"]
        assert resources["limits"].keys() == {"memory"}
        return str(resources["requests"]["memory"])

    text = REFERRING.replace("config: agent.yaml", "config: agent.yaml\n  number: 8")
    (tmp_path / "collection.yaml").write_text(text)
    assert asked(AGENT) == "66Mi"
    assert asked(AGENT, memory_mib=500) == "500Mi"
    llm = AGENT.replace("type: command", "type: llm\n  name: a").replace(
        '{command: ["true"]}', "{model: 'openai:x', servers: [{name: a}]}"
    )
    assert asked(llm) == f"{64 + 48 + 8 * 75 + 2}Mi"
    assert asked(llm, slots=2) == f"{64 + 48 + 2 * 75}Mi"


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_keda_counts_the_tasks_of_the_collection_and_owns_the_replicas(
    tmp_path: Path, trigger: Trigger
) -> None:
    text = collection("evals").replace("config: agent.yaml", "config: agent.yaml\n  number: 8")
    asked = partial(RedisStore.scaler_trigger, "rediss://redis/3?prefix=mine", "")
    scaling = Scaling(trigger, server_trigger=asked if trigger == "redis" else None)
    documents = made(tmp_path, text, scaling=scaling)
    (scaled,), (deployment,) = the("ScaledObject", documents), the("Deployment", documents)
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (found,) = scaled["spec"]["triggers"]
    assert found["type"] == trigger
    metadata = found["metadata"]
    assert all(isinstance(value, str) for value in metadata.values())
    assert "8" in (metadata.get(key) for key in ("threshold", "targetValue", "listLength"))
    expected = {
        "prometheus": (
            "query",
            'sum(agentpipe_tasks{collection="evals",state=~"waiting|running"})',
        ),
        "metrics-api": ("valueLocation", 'agentpipe_tasks{collection="evals",state="waiting"}'),
        "redis": ("listName", "{mine}:tasks"),
    }
    assert metadata[expected[trigger][0]] == expected[trigger][1]
    if trigger == "redis":
        assert (metadata["databaseIndex"], metadata["enableTLS"]) == ("3", "true")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rediss://redis/3?prefix=mine", ("redis", "{mine}:tasks", "3", "true")),
        ("redis://redis?db=3", ("redis", "{agentpipe}:tasks", "3", "false")),
        ("unix:///run/redis.sock?db=3", ("redis", "{agentpipe}:tasks", "3", "false")),
        (
            "redis+sentinel://a,b:1/main?db=3&tls=yes",
            ("redis-sentinel", "{agentpipe}:tasks", "3", "true"),
        ),
        ("sqlite:///5", ("redis", "{agentpipe}:tasks", "0", "false")),
    ],
)
def test_keda_asks_the_database_of_the_brokers_url(
    tmp_path: Path, url: str, expected: tuple[str, ...]
) -> None:
    found = trigger_of(tmp_path, url)
    names = ("listName", "databaseIndex", "enableTLS")
    assert (found["type"], *(found["metadata"][name] for name in names)) == expected
    if found["type"] == "redis-sentinel":
        asked = (found["metadata"]["addresses"], found["metadata"]["sentinelMaster"])
        assert asked == ("a:26379,b:1", "main")
    place = "addresses" if found["type"] == "redis-sentinel" else "address"
    assert trigger_of(tmp_path, url, "[::1]:7000")["metadata"][place] == "[::1]:7000"


def trigger_of(folder: Path, broker: str, address: str = "") -> dict[str, Any]:
    """The trigger that the command prints; asserts that no password is printed."""
    made(folder, REFERRING)
    options = ["--scaler", "keda", "--scaler-trigger", "redis"]
    options += ["--scaler-address", address] if address else []
    done = deploy(
        folder, *options, AGENTPIPE_BROKER=broker.replace("redis://", f"redis://:{CANARY}@")
    )
    assert done.returncode == 0, done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert ("is not Redis" in done.stderr) == broker.startswith("sqlite")
    (scaled,) = the("ScaledObject", list(yaml.safe_load_all(done.stdout)))
    (found,) = scaled["spec"]["triggers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("--scaler", "keda", "--scaler-address", f"http://user:{CANARY}@prometheus"),
        ("--scaler", "keda", "--scaler-address", f"http://prometheus/?token={CANARY}"),
        ("--scaler", "keda", "--scaler-trigger", "redis", "--scaler-address", f"redis://{CANARY}"),
        ("--secret-env", f"TOKEN={CANARY}"),
        ("--secret-env", f"sk-{CANARY}"),
        ("--secret", f"Agent_{CANARY}"),
        ("--secret", ""),
        ("--image", f"user:{CANARY}@registry/agents:1"),
        ("--image", f"agents {CANARY}"),
        ("--image-folder", CANARY),
        ("--image-folder", "/"),
        ("--image-folder", f"/tmp/{CANARY}"),
        ("--image-folder", f"/app/../{CANARY}"),
        ("--image-folder", f"/app/{CANARY} "),
    ],
)
def test_what_no_cluster_takes_is_refused_and_not_repeated(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    made(tmp_path, REFERRING)
    done = deploy(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert CANARY not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("--")]


def test_an_image_may_have_a_digest_and_a_folder_a_slash_at_its_end(tmp_path: Path) -> None:
    made(tmp_path, REFERRING)
    image = f"registry.example:5000/team/agents@sha256:{'0a' * 32}"
    done = deploy(tmp_path, "--image", image, "--image-folder", "/srv/agents/")
    (deployment,) = the("Deployment", list(yaml.safe_load_all(done.stdout)))
    assert container(deployment)["image"] == image
    assert container(deployment)["workingDir"] == "/srv/agents"


@pytest.mark.parametrize("broker", ["redis://[::1", "redis://h/zz", "redis://h?prefix=%7Bq"])
def test_a_mistake_in_the_brokers_url_is_one_line(tmp_path: Path, broker: str) -> None:
    made(tmp_path, REFERRING)
    options = ("--scaler", "keda", "--scaler-trigger", "redis")
    done = deploy(tmp_path, *options, AGENTPIPE_BROKER=broker)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("{A: '${file:/app/key}'}", "/app"),
        ("{A: '${file:/etc/key}'}", "/etc"),
        ("{A: '${file:/usr/bin/key}'}", "/usr/bin"),
        ("{A: '${file:/proc/self/key}'}", "/proc/self"),
        ("{A: '${file:/a/key}', B: '${file:/b/key}'}", "key"),
        ("{A: '${file:/app/x/a}', B: '${file:/app/x/y/b}'}", "/app/x/y"),
    ],
)
def test_a_file_that_cannot_be_mounted_is_refused(tmp_path: Path, env: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(tmp_path, collection("evals", env))


def test_what_a_pod_has_of_its_own_does_not_come_from_the_secret(tmp_path: Path) -> None:
    env = "{PATH: '${PATH}', HOME: '${HOME}', A: '${AGENTPIPE_GRACE_S}', B: '${AGENTPIPE_SINK}'}"
    (deployment,) = the("Deployment", made(tmp_path, collection("evals", env)))
    variables = [each["name"] for each in container(deployment)["env"]]
    assert len(variables) == len(set(variables))
    given = {each["name"] for each in container(deployment)["env"] if "valueFrom" in each}
    assert given == {"AGENTPIPE_BROKER", "AGENTPIPE_SINK"}


def test_schedules_are_sent_by_a_pod_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "nightly.jsonl").write_text('{"question": "q"}\n')
    schedule = """  schedule:
    - {name: nightly, cron: "0 3 * * *", tasks: nightly.jsonl}
"""
    documents = made(tmp_path, f"{collection('e' * 60)}{schedule}---\n{collection('other')}")
    workers, sender, others = the("Deployment", documents)
    name, labels = (sender["metadata"][key] for key in ("name", "labels"))
    assert len({name, *(each["metadata"]["name"] for each in (workers, others))}) == 3
    assert len(name) <= 63
    assert sender["spec"]["selector"]["matchLabels"] == labels != workers["metadata"]["labels"]
    file = container(sender)["volumeMounts"][0]["mountPath"]
    command = ["agentpipe", "schedule", "run", "--collection-file", file]
    assert container(sender)["command"] == command
    parser_for(COMMANDS).parse_args(command[1:])
    assert file == container(workers)["volumeMounts"][0]["mountPath"]
    assert sender["spec"]["replicas"] == 1
    assert "lifecycle" not in container(sender)
    for each in documents:
        kubernetes_validate.validate(each, "1.37", strict=True)


def test_windows_line_ends_do_not_reach_the_cluster(tmp_path: Path) -> None:
    expected = made(tmp_path, f"{REFERRING}---\n{collection('more')}")
    (tmp_path / "collection.yaml").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "collection.yaml").read_bytes().replace(b"\n", b"\r\n")
    )
    done = deploy(tmp_path, "--image", "registry/agents:1")
    assert list(yaml.safe_load_all(done.stdout)) == expected


@dataclass(frozen=True)
class Deployed:
    """The command's output and exit code."""

    returncode: int
    stdout: str
    stderr: str


def deploy(folder: Path, *options: str, **environ: str) -> Deployed:
    """Run the command in ``folder`` with only ``environ`` as its environment."""
    image = () if "--image" in options else ("--image", "a:1")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        for name in os.environ.keys() - environ.keys():
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        code = exit_code_of(["deploy", "kubernetes", *image, *options])
    return Deployed(code, out.getvalue(), err.getvalue())


def exit_code_of(arguments: list[str]) -> int:
    """The exit code; argparse exits on an invalid argument."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def deploy_by_a_process(folder: Path, **environ: str) -> Deployed:
    """Run in a new process: no state of this one, and all of its output."""
    command = [sys.executable, "-m", "agentpipe", "deploy", "kubernetes", "--image", "a:1"]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    return Deployed(done.returncode, done.stdout, done.stderr)


def test_no_output_has_a_credential(tmp_path: Path) -> None:
    made(tmp_path, REFERRING)
    url = f"redis://user:{CANARY}@broker.invalid/0"
    done = deploy_by_a_process(tmp_path, TOKEN=CANARY, AGENTPIPE_BROKER=url)
    assert done.returncode == 0, done.stderr
    assert "secretKeyRef" in done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_what_is_printed_is_the_collection_as_it_was(tmp_path: Path) -> None:
    odd = f"{REFERRING}# \u00e9, \u202e and a\ttab\n"
    expected = made(tmp_path, odd)
    done = deploy_by_a_process(tmp_path)
    (printed,) = the("ConfigMap", list(yaml.safe_load_all(done.stdout)))
    assert printed == the("ConfigMap", expected)[0]
    assert printed["data"]["collection.yaml"] == odd
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    "env",
    [
        f"{{KEY: {CANARY}}}",
        f"{{KEY: '$${{{CANARY}}}'}}",
        f"{{KEY: 'https://{CANARY}:${{TOKEN}}@host'}}",
        f"{{KEY: '${{TOKEN}}{CANARY}'}}",
        f"{{KEY: '{CANARY}${{file:/run/keys/key}}'}}",
        "{KEY: '${file:/key}'}",
    ],
)
def test_what_cannot_be_referred_to_is_refused(tmp_path: Path, env: str) -> None:
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "collection.yaml").write_text(collection("evals", env))
    done = deploy(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert CANARY not in done.stderr
    assert "${file:" in done.stderr or "folder of their own" in done.stderr


def test_separators_between_references_are_no_secret(tmp_path: Path) -> None:
    (deployment,) = the("Deployment", made(tmp_path, collection("evals", "{KEY: '${A}:${B}'}")))
    assert {"A", "B"} <= {each["name"] for each in container(deployment)["env"]}


def test_a_key_in_a_comment_is_refused_with_its_line(tmp_path: Path) -> None:
    key = f"sk-proj-{'a1B2' * 10}"
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "collection.yaml").write_text(f"{REFERRING}# before: {key}\n")
    done = deploy(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert key not in done.stderr
    assert f"collection.yaml:{REFERRING.count(chr(10)) + 1}: " in done.stderr


@pytest.mark.parametrize(
    "name", ["evals", "Evals", "evals_", "e" * 100, "-", "...", "\u00e9vals", "a-", "0", "A.b-C_d"]
)
def test_names_are_labels_of_dns(name: str) -> None:
    made_of = name_of(name)
    assert len(made_of) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", made_of)
    assert made_of != name_of(f"{name}_")
