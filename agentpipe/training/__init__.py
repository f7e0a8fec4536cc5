"""For trainers: whole groups of rollouts from the stream."""
