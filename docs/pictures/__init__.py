"""Draws the documents' images with ``top`` and ``web`` themselves, from runs of real workers."""
