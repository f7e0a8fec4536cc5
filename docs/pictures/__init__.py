"""Draws the documents' images with ``agentpipe top`` itself, from a run of real workers."""
