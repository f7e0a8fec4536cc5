"""Operators' queries and actions."""
