"""Sender: sends and cancels tasks for trainers, in its own thread."""

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
    """Carries out orders in turn, and orders that arrived meanwhile as one batch.

    Waits for a broker that does not answer, and for room in the queues.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        store: Store,
        policy: TrainedPolicy,
        collection: str,
        refuse: Callable[[str, str], None],
    ) -> None:
        """``refuse`` receives the id of a task that is not sent, and the reason."""
        self._dispatcher, self._store, self._policy = dispatcher, store, policy
        self._collection, self._refuse = collection, refuse
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._waiting: dict[str, AdmittedTask] = {}

    def send(self, request: RunRequest, task: AdmittedTask) -> None:
        """Send a task."""
        self._orders.put((request, task))

    def cancel(self, task_id: str) -> None:
        """Cancel a task, sent or not."""
        self._orders.put(task_id)

    def stop(self) -> None:
        """Make ``run`` return after the orders so far, even if some tasks found no room."""
        self._orders.put(None)

    def run(self) -> None:
        """Carry out orders until ``stop``; call it in the sending thread."""
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
        """Offer all waiting tasks; a duplicate was accepted before, but the answer was lost."""
        if not self._waiting:
            return
        tasks = list(self._waiting.values())
        sent = until_it_answers(partial(self._dispatcher.send_many, self._collection, tasks))
        for task_id in (*sent.task_ids, *sent.duplicate_ids):
            del self._waiting[task_id]
