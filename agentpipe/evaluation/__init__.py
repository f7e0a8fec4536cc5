"""Evaluates answers: MCP-Universe's chains and comparisons, and the user's functions."""
