"""Failure digests: the same for the same failure, whatever the task's values."""

from __future__ import annotations

import time

import pytest

from agentpipe.core.failure_digest import MAX_CHARS, failure_digest

EQUAL = [
    ("task 7 failed after 3.5 s", "task 12 failed after 0.25 s"),
    ("cannot reach http://10.0.0.1:4431/v1", "cannot reach http://10.0.0.2:99/v1/x?y=1"),
    ("no such file: /tmp/run-1/a.txt, sorry", "no such file: /var/tmp/deep/b.txt, sorry"),
    ("no module named 'a'", "no module named 'b.c'"),
    ("can't parse 'it's', sorry", "can't parse 'x', sorry"),
    ('unknown key "a b" in `x`', 'unknown key "c" in `y z`'),
    ("object at 0x7fde3a40 is gone", "object at 0x55aa is gone"),
    ("request req_01AbC failed", "request req_99Zz failed"),
    ("session 3f1c2d4e-aaaa-bbbb-cccc-1234567890ab", "session deadbeef-1111-2222-3333-0"),
    ("digest cafebabe differs", "digest deadbeefface differs"),
    ("Refused\n  by peer", "refused by  peer"),
    ("no account for ann.b+c@example.org, sorry", "no account for bob@mail.test.example, sorry"),
    ("<ann@example.org> is unknown", "<bob@example.org> is unknown"),
    ("no such file: data/x.txt", "no such file: in/deep/other_y.csv"),
    ("cannot open ./a: gone", "cannot open ../up/b: gone"),
    ("cannot open (~/a/)", "cannot open (b/c)"),
    ("cannot open C:\\in\\a.txt", "cannot open out\\b.txt"),
    ("cannot open notes.txt.", "cannot open data/readme.md."),
    ("cannot reach api.example.org: refused", "cannot reach eu.example.com: refused"),
    ("response chatcmpl-AbCdEfGh is empty", "response chatcmpl-ZyXwVuTsRq is empty"),
    ("request req_AbcdEfgh failed", "request req_qWertYuiopAsdf failed"),
    ("run QwErTyUiOpAsDfGh failed", "run zXcVbNmAsDfGhJkLQw failed"),
    ("run: SgkdoWLtAMqFzvYb.", "run: XJduQlbGTaRcpoZm."),
    ("said \u201cyes\u201d", "said \u201cno, never\u201d"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_what_each_task_brings_along_makes_no_difference(one: str, other: str) -> None:
    assert failure_digest("Error", one) == failure_digest("Error", other)


OTHER = [
    (("ValueError", "x"), ("KeyError", "x")),
    (("Error", "the key is refused"), ("Error", "the model is unknown")),
    (("Error", "can't read, won't write"), ("Error", "can't write, won't read")),
    (("Error", "an AuthenticationError"), ("Error", "a PermissionDeniedError")),
    (("Error", "ContextWindowExceededError"), ("Error", "UnprocessableEntityError")),
    (("Error", "HTTPSConnectionPool"), ("Error", "SSLCertVerificationError")),
    (("Error", "set-up failed"), ("Error", "clean-up failed")),
    (("Error", "the end. It failed"), ("Error", "the end. It hung")),
    (("Error", "a quote ' alone"), ("Error", "another quote ' alone")),
]


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_failures_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert failure_digest(*one) != failure_digest(*other)


@pytest.mark.parametrize(
    "text", ["'", "a", "a ' ", "/a", "/", "a@", "a.", "a-", "aB", "\ud800", "1a"]
)
def test_no_message_takes_long(text: str) -> None:
    began = time.thread_time()
    failure_digest("Error", text * MAX_CHARS * 10)
    assert time.thread_time() - began < 1.0
