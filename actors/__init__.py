"""Agents of this repository, ready to run; none of them knows a broker."""
