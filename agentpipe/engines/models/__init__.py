"""How models are called: protocols, providers, errors, and the data of a response."""
