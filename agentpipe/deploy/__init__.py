"""Manifests for a fleet: what `agentpipe deploy` prints."""
