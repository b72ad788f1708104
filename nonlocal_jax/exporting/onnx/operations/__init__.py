"""From primitives of JAX to operators of ONNX, a file for each kind."""
