"""Encoders of images and audio: built-in ones of timm and transformers, and plug-ins."""

GROUP = "sage_va.encoders"  # entry points of packages that add encoders
