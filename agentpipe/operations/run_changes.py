"""RunChanges: how a send differs from the one that began its run, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Record = Mapping[str, Any]

_HASH_CHARS = 12


def differences(run: str, kept: Record, ours: Record) -> Iterator[str]:
    """One sentence per difference; skips what an earlier version did not record."""
    begun, another = f"run {run} was begun with", "another --run NAME begins a new run"
    for name, noun in (("collection", "collection"), ("config_hash", "config")):
        if kept.get(name) != ours.get(name):
            was, now = kept.get(name), ours.get(name)
            yield f"{begun} {noun} {was}, this one is {now}: {another}"
    if _differ("contexts", kept, ours):
        was, now = kept["contexts"], ours["contexts"]
        yield f"{begun} {was} contexts, this one has {now}: see report --by context"
    if _differ("samples", kept, ours):
        yield (
            f"{begun} {_samples(kept)}, this one has {_samples(ours)}: its tasks are sent beside "
            f"those; {_samples(kept)} goes on with the run, {another}"
        )
    yield from _other_file(begun, kept, ours)


def _differ(name: str, kept: Record, ours: Record) -> bool:
    return name in kept and name in ours and kept[name] != ours[name]


def _samples(record: Record) -> str:
    number = record["samples"]
    return f"--samples {number}" if number else "no --samples"


def _other_file(begun: str, kept: Record, ours: Record) -> Iterator[str]:
    was, now = kept.get("tasks_file"), ours.get("tasks_file")
    if not isinstance(was, dict) or not isinstance(now, dict):
        return
    if was.get("sha256") and now.get("sha256") and was["sha256"] != now["sha256"]:
        same = was.get("file") == now.get("file")
        what = "the tasks file has changed" if same else f"{begun} the tasks of {was.get('file')}"
        digests = f"sha256 {_head(was)} then, {_head(now)} now"
        yield (
            f"{what} ({digests}): only tasks with new ids are sent; a task without an id is known "
            "by its line alone, whatever it asks"
        )


def _head(file: Record) -> str:
    return str(file["sha256"])[:_HASH_CHARS]
