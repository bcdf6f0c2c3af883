"""Encoders of images and audio: built-in ones of timm and transformers, and plug-ins."""
