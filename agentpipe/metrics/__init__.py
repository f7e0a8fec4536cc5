"""What Prometheus scrapes: the fleet's snapshot as metrics, and the server that answers."""
