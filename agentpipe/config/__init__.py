"""Users' YAML as frozen objects, each mistake with its line."""
