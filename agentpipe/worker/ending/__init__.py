"""Runs and processes that must not go on."""
