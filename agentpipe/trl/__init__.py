"""TRL: whole groups of agents' rollouts as its trainers take them."""

from agentpipe.trl.async_grpo import AsyncGrpoRollouts
from agentpipe.trl.grpo import GrpoRollouts, agent_reward

__all__ = ["AsyncGrpoRollouts", "GrpoRollouts", "agent_reward"]
