"""Copying caches, and features in and out of them."""
