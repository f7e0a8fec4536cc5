"""Timeouts and intervals of a worker's parts."""

# Longest pause between two checks of the store, the loop or the parent process.
TICK_S = 1.0
# Longest pause between two heartbeats: a worker reports within 5 s that its broker is away.
RENEW_EVERY_S = 1.5
# Time to settle and drain the outbox on shutdown.
SHUTDOWN_S = 5.0
# Added to the grace: the supervisor settles, drains the outbox and waits for its workers.
ENDING_S = 6 * SHUTDOWN_S
# A call to a store that answers takes less.
BRIEFLY_S = 0.2
