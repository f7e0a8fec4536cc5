"""Marks an answer: evaluators, chains of steps, functions of the user's own."""
