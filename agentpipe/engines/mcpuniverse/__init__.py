"""MCP-Universe's own agents, each in a process that has mcpuniverse in an environment of its own."""
