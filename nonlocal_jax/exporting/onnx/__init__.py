"""Networks as ONNX models: a small converter of JAX programs, and the file it writes."""
