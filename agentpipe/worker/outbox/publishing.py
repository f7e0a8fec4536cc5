"""Publishing: sends a batch to the sink, and isolates the records that it refuses.

One bad record must not block the outbox. A refused batch is halved until the record is alone. The
record is then cut, its largest field first, and sent again. If the sink still refuses it, it is set
aside. Only what the sink reports about a record counts: everything else is an outage, and the batch
is retried unchanged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Refusal
from agentpipe.core.groups import is_group_record
from agentpipe.core.masking import masked, shorten
from agentpipe.core.result import Result
from agentpipe.errors import FormatError, RecordsRefused
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import SIDE_FIELDS, cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import OutboxRecord
    from agentpipe.sinks.base import Sink

# Below this size, a record is not refused for its size.
SMALLEST_BYTES = 1_024
MAX_REASON_CHARS = 1_000

log = logging.getLogger(__name__)


def publish(sink: Sink, records: Sequence[OutboxRecord]) -> list[Refusal]:
    """Publish all records except those that the sink refuses; return the refusals.

    Raises:
        Exception: Any other error that the sink raises; publish all again.
    """
    try:
        sink.publish([Record(each.task_id, each.payload) for each in records])
    except RecordsRefused as error:
        left = [records[index] for index in error.left] if error.left else records
        if len(left) == 1:
            return _publish_cut(sink, left[0], error)
        half = len(left) // 2
        return [*publish(sink, left[:half]), *publish(sink, left[half:])]
    return []


def _publish_cut(sink: Sink, record: OutboxRecord, error: RecordsRefused) -> list[Refusal]:
    for payload in _cuts(record, error):
        try:
            sink.publish([Record(record.task_id, payload)])
        except RecordsRefused as again:
            error = again
        else:
            log.warning("task %s: the sink takes its result cut only: %s", record.task_id, error)
            return []
    log.error("task %s: its result is undeliverable: %s", record.task_id, error)
    return [_refusal(record, error)]


def _cuts(record: OutboxRecord, error: RecordsRefused) -> Iterator[bytes]:
    """Yield ever smaller versions of the record; nothing for a group record.

    If the size is not the reason, yield one version without the side fields. Otherwise halve the
    size each time: the sink does not report what it counts besides the payload.
    """
    if is_group_record(record.payload):
        return
    whole, size = Record(record.task_id, record.payload), len(record.payload)
    if not error.too_large:
        yield cut(whole, size, error.remedy, reason=_reason(error), drop=SIDE_FIELDS)
        return
    wanted = min(size // 2, error.max_bytes or size)
    while wanted >= SMALLEST_BYTES:
        payload = cut(whole, wanted, error.remedy)
        if len(payload) < size:
            size = len(payload)
            yield payload
        wanted //= 2


def _refusal(record: OutboxRecord, error: RecordsRefused) -> Refusal:
    try:
        result = Result.decode(record.payload)
    except FormatError:
        result = Result(outcome="infra_error")
    return Refusal(record, result.agent or "", result.collection, result.outcome, _reason(error))


def _reason(error: RecordsRefused) -> str:
    return shorten(masked(str(error)), MAX_REASON_CHARS)
