"""How the store decodes the answers of its Redis scripts."""

from __future__ import annotations

from agentpipe.brokers.redis.decoding import as_outbox, as_stats

ERROR = b"it said \xff\xfe"


NOTHING_ELSE: list[object] = [[], 0, 0, [], 0, b"0", [], [], [], 0, [], []]


def test_an_error_that_is_no_text_is_shown_as_far_as_it_is() -> None:
    depths = b'["plain","",-1,1,0,0,10,1,"0",0,"",0,"",0]'
    tallies = b'["plain",3,1,2,"1.5","0.25","7.5","' + ERROR + b'"]'
    (queue,) = as_stats([(depths, tallies)], NOTHING_ELSE).queues
    assert (queue.queue, queue.waiting, queue.tally.done) == ("plain", 1, 3)
    assert (queue.tally.error, queue.tally.error_s) == ("it said \ufffd\ufffd", 7.5)


def test_no_queue_is_an_empty_object() -> None:
    stats = as_stats([(b"{}", b"{}")], NOTHING_ELSE)
    assert (stats.queues, stats.waiting) == ((), 0)


def test_a_result_that_another_worker_has_delivered_meanwhile_is_not_taken() -> None:
    entries, payloads = [b"7 2 a", b"8 2 b of two", b"9 2 c"], [b"{}", b"[]", None]
    first, second = as_outbox(entries, payloads)
    assert (first.number, first.task_id, first.payload) == (7, "a", b"{}")
    assert (second.number, second.task_id, second.payload) == (8, "b of two", b"[]")


def test_a_queue_in_two_parts_is_one_as_it_was_read_last() -> None:
    row = '["%s","c",%d,%d,0,0,10,1,"0",0,"",0,"",0]'
    first, second, third = (row % (f"c_{place}", place, 1) for place in range(3))
    again = row % ("c_1", 1, 5)
    pages = [f"[{third[1:-1]},{second[1:-1]}]", f"[{again[1:-1]},{first[1:-1]}]"]
    stats = as_stats([(page.encode(), b"{}") for page in pages], NOTHING_ELSE)
    assert [(it.queue, it.waiting) for it in stats.queues] == [("c_0", 1), ("c_1", 5), ("c_2", 1)]
