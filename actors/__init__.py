"""Agents of this repository, ready to run; none knows a broker."""
