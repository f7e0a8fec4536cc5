"""TRL: complete groups of agents' rollouts in the form that its trainers take."""

from agentpipe.trl.async_grpo import AsyncGrpoRollouts
from agentpipe.trl.grpo import GrpoRollouts, agent_reward

__all__ = ["AsyncGrpoRollouts", "GrpoRollouts", "agent_reward"]
