"""agentpipe runs AI agents by the thousand and gives every result back as one stream."""

__version__ = "0.1.0"
