"""``agentpipe web``: pages that only read: the fleet, runs, and tasks with their traces."""
