"""Predictions, scores and robustness."""
