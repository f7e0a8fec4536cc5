"""Folders of agents: surveyed, imported from elsewhere, begun anew."""
