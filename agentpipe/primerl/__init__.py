"""For prime-rl: an environment server that runs a collection."""
