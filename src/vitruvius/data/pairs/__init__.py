"""Pairs of a source and a target text: read, kept apart by group, encoded, and written as prepared data."""
