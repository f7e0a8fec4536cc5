"""Users' YAML parsed into frozen objects; each mistake is reported with its line."""
