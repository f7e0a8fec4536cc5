"""For trainers: complete groups of rollouts read from the stream."""
