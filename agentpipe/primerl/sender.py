"""Sender: sends what trainers want and cancels it again, in a thread of its own."""

from __future__ import annotations

import queue
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.operations.cancel import cancel
from agentpipe.primerl.episodes import CANCELLED
from agentpipe.sending.patience import FULL_PAUSE_S, until_it_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentpipe.brokers.base import Store
    from agentpipe.primerl.requests import RunRequest
    from agentpipe.primerl.trained_policy import TrainedPolicy
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher

Order = tuple["RunRequest", "AdmittedTask"] | str


class Sender:
    """Orders are carried out one after the other; those that have come meanwhile, together.

    A broker that does not answer is waited for, and so is room in the queues.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        policy: TrainedPolicy,
        collection: str,
        refuse: Callable[[str, str], None],
    ) -> None:
        """``refuse`` gets the id of a task that is not sent, and why."""
        self._dispatcher, self._store, self._policy = dispatcher, store, policy
        self._collection, self._refuse = collection, refuse
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._waiting: dict[str, AdmittedTask] = {}

    def send(self, request: RunRequest, task: AdmittedTask) -> None:
        """Send a task."""
        self._orders.put((request, task))

    def cancel(self, task_id: str) -> None:
        """Cancel it, whether it was sent already or not."""
        self._orders.put(task_id)

    def stop(self) -> None:
        """Have ``run`` return after the orders so far, except what finds no room."""
        self._orders.put(None)

    def run(self) -> None:
        """Until ``stop``, in its thread."""
        goes_on = True
        while goes_on:
            orders = self._next()
            goes_on = None not in orders
            self._follow(order for order in orders if order is not None)
            self._offer()

    def _next(self) -> list[Order | None]:
        orders: list[Order | None] = []
        try:
            orders.append(self._orders.get(timeout=FULL_PAUSE_S if self._waiting else None))
            while True:
                orders.append(self._orders.get_nowait())
        except queue.Empty:
            return orders

    def _follow(self, orders: Iterable[Order]) -> None:
        unwanted: list[str] = []
        for order in orders:
            if isinstance(order, str):
                unwanted += [] if self._is_held_back(order) else [order]
                continue
            request, task = order
            if problem := self._policy.follow(request):
                self._refuse(request.task_id, problem)
            else:
                self._waiting[request.task_id] = task
        if unwanted:
            until_it_answers(partial(cancel, self._store, unwanted))

    def _is_held_back(self, task_id: str) -> bool:
        if self._waiting.pop(task_id, None) is None:
            return False
        self._refuse(task_id, CANCELLED)
        return True

    def _offer(self) -> None:
        """All that wait; a duplicate is one whose answer was lost."""
        if not self._waiting:
            return
        tasks = list(self._waiting.values())
        sent = until_it_answers(partial(self._dispatcher.send_many, self._collection, tasks))
        for task_id in (*sent.task_ids, *sent.duplicate_ids):
            del self._waiting[task_id]
