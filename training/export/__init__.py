"""A trained network → an ONNX graph that computes the same, with a name for everything in it."""
