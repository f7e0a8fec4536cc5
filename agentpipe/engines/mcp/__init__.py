"""A client of MCP servers: tolerant of malformed answers, exact about failures.

``session`` speaks the protocol over a ``transport``: ``stdio``, ``streamable_http`` or
``sse_stream``. ``content`` converts a tool's result to text and images.
"""
