"""The broker of a process that runs agents and must not print their secrets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agentpipe.config.contexts import resolve_contexts, variables_in
from agentpipe.core import logs, masking
from agentpipe.core.process_privacy import withdraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.sending.broker import StoreBroker


def private_broker(
    collections: Sequence[Collection], make: Callable[[], StoreBroker]
) -> StoreBroker:
    """Return ``make()``; from before that call on, everything that this process prints is masked.

    Raises:
        ConfigError: A context is incomplete.
    """
    # Before anything else: log handlers of users' modules keep the streams that they find.
    masking.install(_secrets(collections))
    logs.redact_output()
    made = make()
    withdraw(variables_in(collections))
    return made


def _secrets(collections: Sequence[Collection]) -> set[str]:
    contexts = resolve_contexts(collections, os.environ).values()
    return {value for each in contexts for context in each for value in context.env.values()}
