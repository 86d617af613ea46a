"""Tokens from a model, prompt by prompt and row by row."""
