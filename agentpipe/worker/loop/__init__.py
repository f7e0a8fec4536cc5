"""The event loop and the threads on which runs live."""
