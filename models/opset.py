"""The ONNX dialect of every published graph: the project's own domain beside a standard opset.

A published graph holds each activation as one node of `DOMAIN`, whose function body is made of standard operators, so
a stock ONNX Runtime runs the file without a plug-in.
"""

DOMAIN = "reslens"
DOMAIN_VERSION = 1

# The first with Gelu, and old enough that every operator of it has kernels: ONNX Runtime 1.31 has none for the Swish of
# opset 24 in models of opset 25 or 26.
STANDARD_OPSET = 20

# ONNX functions need version 8; the exporter writes 10, and newer ones than ONNX Runtime reads are refused by it.
IR_VERSION = 10
