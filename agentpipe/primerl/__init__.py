"""For prime-rl: an environment server whose environment is a collection."""
