"""Rows of questions and worked solutions, from their sources to padded batches of tokens."""
