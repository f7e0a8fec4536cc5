"""How models are spoken to: protocols, providers, errors, and what a response leaves behind."""
