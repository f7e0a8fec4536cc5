"""``agentpipe top``: the fleet in a terminal, with its bottleneck."""
