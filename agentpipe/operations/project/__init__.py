"""Folders of agents: survey them, import them, and create new ones."""
