"""Gateway: what programs and classes of users ask models through, where their runs are recorded.

Each run has a URL and a key of its own on the loopback of its worker. The record is made where the
Result is, so that both settle in one step. Real keys stay in the worker.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentpipe.core.rollout import recorder
from agentpipe.engines.gateway.variables import KEYS, hidden_keys, model_variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.gateway.run_gateway import RunGateway


def model_keys(variables: Mapping[str, str]) -> tuple[str, ...]:
    """The keys among what ``model_variables`` found."""
    names = [name for names in KEYS.values() for name in names]
    return tuple(variables[name] for name in names if name in variables)


__all__ = ["hidden_keys", "model_keys", "model_variables", "run_gateway"]


@asynccontextmanager
async def run_gateway(
    task: Task,
    context: Context,
    environ: Mapping[str, str],
    *,
    own: Mapping[str, str] | None = None,
) -> AsyncIterator[RunGateway | None]:
    """The gateway of the current run until the block ends; None where it is not recorded.

    ``environ`` has the worker's own keys and addresses, for contexts without. An agent with ``own``
    says there which server it asks, and counts and traces its requests itself.

    Raises:
        AgentFailed: Instead of what the block raises, where its last request to a model failed.
    """
    rollout = recorder()
    if rollout is None:
        yield None
        return
    from agentpipe.engines.gateway.run_gateway import RunGateway
    from agentpipe.engines.gateway.shared import shared_gateways

    gateway = RunGateway(task, {**environ, **context.env}, rollout, own=own)
    gateways = await shared_gateways()
    gateways.open(gateway)
    try:
        yield gateway
    except Exception as error:
        if gateway.failure is None:
            raise
        raise gateway.failure from error
    finally:
        await gateways.close(gateway)
