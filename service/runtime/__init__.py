"""Loaded models. The only package that imports ONNX Runtime."""
