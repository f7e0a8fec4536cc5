"""Gateway: the local server through which user programs and classes ask models in recorded runs.

Each run has its own URL and key on its worker's loopback interface. The record is made in the
worker, where the Result is made, so both settle in one step. Real keys stay in the worker.
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
    from agentpipe.engines.gateway.gateway_of_run import RunGateway


def model_keys(variables: Mapping[str, str]) -> tuple[str, ...]:
    """The keys among the variables that ``model_variables`` found."""
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
    """Open a gateway for the current run until the block ends; None if the run is not recorded.

    ``environ`` has the worker's keys and addresses, for contexts that have none. An agent that
    passes ``own`` names the server it asks, and counts and traces its requests itself.

    Raises:
        AgentFailed: Replaces what the block raises if its last request to a model failed.
    """
    rollout = recorder()
    if rollout is None:
        yield None
        return
    from agentpipe.engines.gateway.gateway_of_run import RunGateway
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
