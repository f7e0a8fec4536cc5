"""``agentpipe top``: shows the fleet and its bottleneck in a terminal."""
