"""The activation zoo: for each activation its module, its ONNX body and its meaning, in one catalogue."""
