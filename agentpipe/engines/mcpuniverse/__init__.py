"""MCP-Universe's own agents, in processes of a Python that has mcpuniverse."""
