"""Engines: what makes an agent out of an agent config, one module for each ``type``."""
