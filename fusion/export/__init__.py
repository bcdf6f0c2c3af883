"""Trained models as folders, ONNX files and model cards."""
