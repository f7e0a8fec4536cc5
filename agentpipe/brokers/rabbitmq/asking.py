"""Asking: a question to all workers, and what each answers of itself and of its tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.connections.amqp.message import Letter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.rabbitmq.desk import Desk
    from agentpipe.connections.amqp.channel import Channel, Delivery

ANSWER_S = 1.0
TRIES = 3

log = logging.getLogger(__name__)


async def ask(desk: Desk, question: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The answer of each worker, and whether all have answered; each says how many it knows."""
    channel = await desk.session.channel()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    try:
        return await _answers(desk, channel, answers, question)
    finally:
        channel.close()


async def ask_all(desk: Desk, question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The answer of each worker to what may be asked twice; a warning where one gives none."""
    told: list[dict[str, Any]] = []
    for _ in range(TRIES):  # Of one that has just died the others hear a moment later.
        more, complete = await ask(desk, question)
        told += more
        if complete:
            return told
    log.warning("a worker does not answer: what it runs may go on; try again in a moment")
    return told


async def _answers(
    desk: Desk,
    channel: Channel,
    answers: asyncio.Queue[dict[str, Any]],
    question: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], bool]:
    def receive(delivery: Delivery) -> None:
        channel.ack(delivery.tag)
        answers.put_nowait(orjson.loads(delivery.body))

    queue = str((await channel.call("queue_declare", "", exclusive=True)).queue)
    await channel.consume(queue, 0, receive)
    asked = Letter("", orjson.dumps({**question, "to": queue}), {}, desk.names.crew)
    if await channel.publish([asked]) == ["unroutable"]:
        return [], True
    told: list[dict[str, Any]] = []
    ends = time.monotonic() + ANSWER_S
    while len(told) < max([1, *(each["known"] for each in told)]):
        try:
            told.append(await asyncio.wait_for(answers.get(), max(0.0, ends - time.monotonic())))
        except TimeoutError:
            break
    complete = bool(told) and len(told) >= max(each["known"] for each in told)
    await channel.call("queue_delete", queue)
    return told, complete
