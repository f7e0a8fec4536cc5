"""The ledger of a fault trial: it reveals lost and duplicated records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentpipe.chaos.ledger import Ledger, Run

ACCEPTED = [f"task-{number}" for number in range(10)]
RESULTS = [(task_id, "ok") for task_id in ACCEPTED]
RUNS = [Run(task_id, 1, 10.0) for task_id in ACCEPTED]


def test_one_result_for_each_task_balances() -> None:
    ledger = Ledger.of(ACCEPTED, RESULTS, RUNS, {})
    assert ledger == Ledger(10, 10, (), (), 0, 10, {"ok": 10})
    assert ledger.balances
    assert ledger.longest_recovery_s is None


def test_a_lost_record_does_not_balance() -> None:
    ledger = Ledger.of(ACCEPTED, RESULTS[:-1], RUNS, {})
    assert (ledger.accepted, ledger.answered_once, ledger.lost) == (10, 9, ("task-9",))
    assert not ledger.balances


def test_a_doubled_record_does_not_balance() -> None:
    ledger = Ledger.of(ACCEPTED, [*RESULTS, ("task-3", "ok")], RUNS, {})
    assert (ledger.accepted, ledger.answered_once, ledger.twice) == (10, 9, ("task-3",))
    assert not ledger.balances


def test_a_lost_and_a_doubled_record_do_not_make_up_for_each_other() -> None:
    ledger = Ledger.of(ACCEPTED, [*RESULTS[:-1], ("task-3", "ok")], RUNS, {})
    assert (len(ledger.lost), len(ledger.twice), ledger.answered_once) == (1, 1, 8)
    assert not ledger.balances


def test_a_result_that_nobody_asked_for_does_not_balance() -> None:
    ledger = Ledger.of(ACCEPTED, [*RESULTS, ("stranger", "ok")], RUNS, {})
    assert ledger.twice == ("stranger",)
    assert not ledger.balances


def test_recovery_is_from_the_fault_to_the_next_run() -> None:
    runs = [*RUNS, Run("task-1", 2, 15.0), Run("task-2", 2, 13.0), Run("task-2", 3, 14.0)]
    ledger = Ledger.of(ACCEPTED, RESULTS, runs, {1: 11.0})
    assert (ledger.run_twice, ledger.runs) == (2, 13)
    assert ledger.recovered_s == (2.0, 4.0)
    assert ledger.longest_recovery_s == pytest.approx(4.0)


def test_a_run_that_began_after_the_fault_was_noted_counts_from_its_start() -> None:
    runs = [Run("task-1", 1, 12.0), Run("task-1", 2, 15.0)]
    ledger = Ledger.of(["task-1"], RESULTS[1:2], runs, {1: 11.0})
    assert ledger.recovered_s == (3.0,)
    assert replace(ledger, lost=("task-1",)).balances is False
