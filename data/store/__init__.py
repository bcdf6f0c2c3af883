"""The feature cache: one contract, one file for each backend."""
