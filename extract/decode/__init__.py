"""Decoding of recordings and crop folders to images and sound with real timestamps."""
