"""Decoding of recordings and crop folders to images and audio with real timestamps."""
