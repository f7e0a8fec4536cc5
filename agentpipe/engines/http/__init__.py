"""Shared HTTP code for clients of models and MCP servers."""
