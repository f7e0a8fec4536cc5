"""One Result for a person: its facts, its trace as a tree, its conversations. All of it is pure."""
