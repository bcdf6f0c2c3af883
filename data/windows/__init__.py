"""Cached Tracks on a common grid, and the windows that models read."""
