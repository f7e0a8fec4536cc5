"""A client of MCP servers: tolerant of what they answer, exact about how they fail.

``session`` speaks the protocol over a ``transport``: ``stdio``, ``streamable_http`` or
``sse_stream``. ``content`` makes a tool's result text and images.
"""
