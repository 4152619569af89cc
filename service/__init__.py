"""The running microservice: HTTP in, ONNX Runtime inside, statistics of every layer out. Never imports torch."""
