"""Answers graded, and what they allow to say."""
