"""Claims, runs and settles tasks, and forwards their results to the sink."""
