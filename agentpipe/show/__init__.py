"""Shows one Result to a person: its facts, its trace as a tree, its conversations. Pure."""
