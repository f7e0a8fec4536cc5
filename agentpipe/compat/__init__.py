"""For those who come from MCP-Universe: its classes, names and variables."""
