"""The ONNX dialect of every published graph: the project's own domain beside a standard opset.

A published graph holds each activation as one node of `DOMAIN`, whose function body is made of standard operators, so
any ONNX Runtime from `MINIMUM_RUNTIME` on runs the file without a plug-in.
"""

DOMAIN = "reslens"
DOMAIN_VERSION = 1

# The newest standard opset whose operators all have CPU and CUDA kernels in ONNX Runtime 1.23 and later.
STANDARD_OPSET = 20

# ONNX functions need IR version 8; version 10 is what ONNX Runtime 1.18 and later read.
IR_VERSION = 10
