"""From the outbox to the sink."""
