"""One run: its message, its actor, the engine that executes it, and its slot."""
