"""Tokenizers trained or loaded, and what they make of a text."""
