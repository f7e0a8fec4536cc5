"""The event loop and the threads that execute runs."""
