"""Model URLs that differ by run: what they can contain, and where."""

from __future__ import annotations

import pytest

from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.models.run_url import filled, is_template, refuse_bad_url, url_problems
from agentpipe.errors import AgentFailed

TASK = Task(task_id="v1/a b?c", group_id="g", sample_index=0, policy_version=7)
ENV = {"GATEWAY": "gw:9090", "REALM": "x"}
WRONG = {"GATEWAY": "gw", "QUERY": "v1?key=x", "BRACKET": "[::1", "PORT": "65536"}


def test_fields_of_the_task_and_names_of_the_context_are_filled_in() -> None:
    url = (
        "http://{{GATEWAY}}/{{ REALM }}/{{ task_id }}/{{attempt}}/{{ group_id }}/{{ sample_index }}"
    )
    assert is_template(url)
    assert not list(url_problems(url))
    tracer = Tracer()
    tracer.attempt = 3
    with tracer.listening():
        assert filled(url, TASK, ENV) == "http://gw:9090/x/v1%2Fa%20b%3Fc/3/g/0"
    assert filled("http://h/{{ policy_version }}/{{ attempt }}", TASK, {}) == "http://h/7/1"
    assert filled("http://h/v1", TASK, {}) == "http://h/v1"
    assert not is_template("http://h/v1")


def test_the_context_can_name_the_whole_server() -> None:
    url = "{{ GATEWAY }}/{{ task_id }}/v1"
    assert not list(url_problems(url))
    assert filled(url, Task(task_id="t"), {"GATEWAY": "http://gw"}) == "http://gw/t/v1"


def test_a_value_is_not_filled_again() -> None:
    task = Task(task_id="{{ SECRET }}")
    assert "SECRET" in filled("http://h/{{ task_id }}", task, {"SECRET": "hidden"})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://{{ task_id }}/v1", "must not choose the server"),
        ("http://h.{{ group_id }}:80/v1", "must not choose the server"),
        ("http://u:{{ task_id }}@h/v1", "must not choose the server"),
        ("{{ task_id }}/v1", "must not choose the server"),
        ("{{ task_id }}://h/v1", "must not choose the server"),
        ("http://h/v1?key={{ KEY }}", "without ? and #"),
        ("{{ GATEWAY }}/v1?x=1", "without ? and #"),
        ("http://h/v1#{{ KEY }}", "without ? and #"),
        ("h:80/v1", "expected a URL"),
        ("http://h:99999/v1", "cannot be read"),
        ("http://h:99999/{{ task_id }}/v1", "cannot be read"),
        ("http:///{{ task_id }}/v1", "has a host"),
        ("http://h/{{ task.id }}/v1", "a placeholder is"),
        ("http://h/{{ task_id", "a placeholder is"),
        ("http://h/{{ 1 + 1 }}", "a placeholder is"),
    ],
)
def test_what_is_no_placeholder_or_in_the_wrong_place_is_refused(url: str, says: str) -> None:
    assert says in "".join(url_problems(url))


@pytest.mark.parametrize(
    ("url", "task_id", "says"),
    [
        ("http://h/{{ group_id }}/v1", "t", "the task has no group_id"),
        ("http://h/{{ sample_index }}/v1", "t", "the task has no sample_index"),
        ("http://h/{{ GATEWEY }}/v1", "t", "the context has no variable 'GATEWEY'"),
        ("http://h/{{ QUERY }}/v1", "t", "without [?] and #"),
        ("{{ GATEWAY }}/v1", "t", "expected a URL"),
        ("http://{{ BRACKET }}/v1", "t", "with the context's values, the URL cannot be read"),
        ("http://h:{{ PORT }}/v1", "t", "cannot be read"),
        ("http://h/s/{{ task_id }}/v1", "..", "another path"),
        ("http://h/s/.{{ task_id }}/v1", ".", "another path"),
        ("http://h/s/{{ task_id }}{{ task_id }}/v1", ".", "another path"),
    ],
)
def test_a_value_that_is_missing_or_leads_elsewhere_fails_the_run(
    url: str, task_id: str, says: str
) -> None:
    with pytest.raises(AgentFailed, match=says) as caught:
        filled(url, Task(task_id=task_id), WRONG)
    assert caught.value.permanent


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("h/v1", "without [?] and #"),
        ("http:///v1", "has a host"),
        ("http://:8000/v1", "has a host"),
        ("http://u:s3cret@/v1", "has a host"),
        ("http://127.0.0.1:99999/v1", "cannot be read"),
        ("https://u:s3cret@h:65536/v1", "cannot be read"),
        ("http://h:x/v1", "cannot be read"),
        ("http://[::1/v1", "cannot be read"),
        ("http://h:0/v1", "port 0"),
        ("http://h/\n/v1", "not a valid URL"),
    ],
)
def test_a_url_without_a_server_is_a_failure_of_the_set_up(url: str, says: str) -> None:
    with pytest.raises(AgentFailed, match=f"OPENAI_BASE_URL: .*{says}") as caught:
        refuse_bad_url(url, "OPENAI_BASE_URL")
    assert (caught.value.kind, caught.value.permanent) == ("ConfigError", True)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h", "https://u:pa%2Fss@h:65535/v1", "http://[::1]:8000/v1", "http://h/a b"]
)
def test_a_url_with_a_server_is_taken(url: str) -> None:
    refuse_bad_url(url, "base_url")
    assert not list(url_problems(url))
