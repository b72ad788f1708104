"""Small ONNX models of JAX functions, run by ONNX Runtime."""

import jax
import numpy as np
import onnx
import onnxruntime
from jax import export

from nonlocal_jax.exporting.onnx.convert import Converter


def exported(function, shape, dtype=np.float32, constraints=()):
    """The model of a function of one array, whose shape is text such as "n,h,3"."""
    struct = jax.ShapeDtypeStruct(export.symbolic_shape(shape, constraints=constraints), dtype)
    converter = Converter("x", struct)
    (y,) = converter.add(function, converter.input)
    model = converter.model("y", y)
    onnx.checker.check_model(model, full_check=True)
    return model


def result(model, x):
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x})[0]


def operators(model):
    """The names of the operators of a model, without those of bodies."""
    return [node.op_type for node in model.graph.node]
