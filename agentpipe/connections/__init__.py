"""Connections to servers and files, for brokers and sinks alike."""
