"""Engines make agents from agent configs: one module or package for each ``type``."""
