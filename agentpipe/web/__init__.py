"""``agentpipe web``: read-only pages of the fleet, of runs, and of tasks with their traces."""
