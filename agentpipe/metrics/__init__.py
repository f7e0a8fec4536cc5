"""Prometheus metrics: the fleet's snapshot as metrics, and the server that exposes them."""
