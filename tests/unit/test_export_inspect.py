"""Where results appear in an inspect_ai log; `make test-inspect` reads such logs with inspect."""

from __future__ import annotations

import io
import json
import zipfile
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.archive.export.inspect.log import write_inspect
from agentpipe.archive.export.inspect.places import Places, safe_id
from agentpipe.core.result import Result
from agentpipe.operations.judging.samples import samples_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def places(*results: Result, run: str | None = "v2") -> dict[int, tuple[str, int]]:
    found = Places(run)
    for each in results:
        found.add(each)
    return {number: (it.sample_id, it.epoch) for number, it in found.all().items()}


def sample(task_id: str, group: str | None = None, index: int | None = None, **more: Any) -> Result:
    return Result(task_id=task_id, group_id=group, sample_index=index, **more)


def test_samples_of_a_group_are_its_epochs() -> None:
    found = places(*(sample(f"v2/p/{n}", "v2/p", n) for n in (2, 0, 1)), sample("v2/q"))
    assert found == {0: ("p", 3), 1: ("p", 1), 2: ("p", 2), 3: ("q", 1)}


def test_without_one_run_names_keep_theirs() -> None:
    assert places(sample("v2/q"), sample("v1/q"), run=None) == {0: ("v2/q", 1), 1: ("v1/q", 1)}


def test_the_last_attempt_has_the_place_of_the_first() -> None:
    first, other = sample("v2/p/0", "v2/p", 0), sample("v2/q")
    again = [sample(f"v2/p/0~r{n}", "v2/p", 0, retry_of="v2/p/0") for n in (1, 2)]
    chained = sample("v2/q~r1", retry_of="v2/q")
    last = sample("q-replayed", replay_of="v2/q~r1")
    found = places(first, other, *again, chained, last)
    assert found == {3: ("p", 1), 5: ("q", 1)}


def test_the_attempt_that_counts_is_that_of_reports_whatever_the_stream_s_order() -> None:
    ends = ["2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z", "2026-01-01T00:00:05Z", None]
    family = [
        sample(f"v2/q{ending}", retry_of="v2/q" if ending else None, finished_at=end)
        for ending, end in zip(("", "~r2", "~r1", "~r3"), ends, strict=True)
    ]
    for results in permutations(family):
        (number,) = places(*results)
        (counted,) = samples_of(results)
        assert results[number].task_id == counted.task_id == "v2/q~r2"


def test_a_retry_whose_first_attempt_is_in_no_stream_has_its_place() -> None:
    again = [sample(f"v2/q~r{n}", retry_of="v2/q") for n in (1, 2)]
    assert places(*again) == {1: ("q", 1)}


def test_tasks_that_share_a_group_and_an_index_are_all_kept() -> None:
    found = places(*(sample(f"v2/{n}", "g", index) for n, index in enumerate([None, 0, -3, 7])))
    assert sorted(found.values()) == [("g", 1), ("g", 2), ("g", 3), ("g", 8)]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../b", "a/..", "/a", "a\\b", "a\0b", "a\nb", "x" * 201]
)
def test_an_id_leads_out_of_no_folder(name: str) -> None:
    safe = safe_id(name)
    assert safe != name
    assert len(safe) < 220
    assert not {"", ".", ".."} & set(safe.split("/"))
    assert "\\" not in safe
    assert safe.isprintable()
    assert safe != safe_id(name + "x")


@pytest.mark.parametrize("name", ["p7", "a/b", "a..b", "...", ".hidden", "你好", "x" * 200])
def test_other_ids_stay_as_they_are(name: str) -> None:
    assert safe_id(name) == name


def test_what_comes_while_a_log_is_written_is_not_in_it() -> None:
    results = [Result(task_id=f"t-{n}", result="a", reward=1.0) for n in range(3)]
    seen = iter([results[:2], results])

    def find() -> Iterator[Result]:
        return iter(next(seen))

    file = io.BytesIO()
    assert write_inspect(find, file, None) == (2, 0)
    log = zipfile.ZipFile(file)
    assert sorted(log.namelist()) == [
        "_journal/start.json",
        "header.json",
        "samples/t-0_epoch_1.json",
        "samples/t-1_epoch_1.json",
        "summaries.json",
    ]
    assert [each["id"] for each in json.loads(log.read("summaries.json"))] == ["t-0", "t-1"]
    assert json.loads(log.read("header.json"))["results"]["total_samples"] == 2
