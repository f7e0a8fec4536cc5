"""Gateway: the local server through which user programs and classes ask models in recorded runs.

Each run has its own URL and key on its worker's loopback interface. The record is made in the
worker, where the Result is made, so both settle in one step. Real keys stay in the worker.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentpipe.core.redaction import passwords_in
from agentpipe.core.rollout import recorder
from agentpipe.engines.gateway.variables import KEYS, hidden_keys, model_variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.gateway.gateway_of_run import RunGateway


def model_secrets(variables: Mapping[str, str]) -> tuple[str, ...]:
    """The keys, and the passwords in URLs, among the variables that ``model_variables`` found."""
    keys = {name for names in KEYS.values() for name in names}
    own = (value for name, value in variables.items() if name in keys)
    return (*own, *passwords_in(dict(variables)))


__all__ = ["hidden_keys", "model_secrets", "model_variables", "run_gateway"]


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
        AgentFailed: Replaces what the block raises if its last request to a model failed and
            ``explains`` that.
        RunLimitExceeded: The same, if that request was longer than the model's context window.
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
        failure = gateway.failure_behind(error)
        if failure is None:
            raise
        raise failure from error
    finally:
        await gateways.close(gateway)
