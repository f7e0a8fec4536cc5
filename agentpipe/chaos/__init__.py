"""``agentpipe chaos``: what faults cost on the user's own broker and sink, as a ledger."""
