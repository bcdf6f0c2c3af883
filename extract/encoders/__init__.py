"""Encoders: images or sound in, embeddings out."""
