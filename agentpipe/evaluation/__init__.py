"""Marks answers: MCP-Universe's chains and comparisons, and functions of the user."""
