"""Ends runs and processes that must not continue."""
