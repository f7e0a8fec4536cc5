"""``agentpipe chaos``: run faults against the user's own broker and sink, and report a ledger."""
