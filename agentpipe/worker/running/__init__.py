"""One run: its message, its actor, the engine that executes it, and the room that it takes."""
