"""Manifests for a fleet: the output of `agentpipe deploy`."""
