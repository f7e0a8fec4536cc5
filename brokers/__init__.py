"""Runs the real servers on this machine, for `make` and for the tests; see README.md."""
