"""MCP-Universe's classes, names and variables, for users who migrate from it."""
