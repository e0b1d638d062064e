"""Protocols: how each method prompts a model, reads its actions and shows it documents."""
