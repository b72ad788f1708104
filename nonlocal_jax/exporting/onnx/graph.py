"""The nodes and constants of an ONNX graph, and of the bodies of its loops and branches."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Read by ONNX Runtime from 1.14 on, and by all of onnxruntime-web's kernels that are used here.
OPSET, IR_VERSION = 18, 8


class Graph:
    """A graph under construction. Equal nodes are made once.

    Args:
      parent: the graph around a body of a loop or a branch, whose names the body may read.

    Attributes:
      root: the outermost graph.
      nodes: in the order of computation.
    """

    def __init__(self, parent: "Graph | None" = None):
        self.parent = parent
        self.root: Graph = parent.root if parent else self
        self.nodes: list[onnx.NodeProto] = []
        self._made: dict[object, tuple[str, ...]] = {}
        self._maker: dict[str, onnx.NodeProto] = {}
        # The others are of the root.
        self._constants: dict[object, str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._numbers = itertools.count()

    def new_name(self, stem: str) -> str:
        """A name that nothing in the model has."""
        return f"{stem}_{next(self.root._numbers)}"

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The result of an operator with one result."""
        return self.nodes_of(operator, inputs, 1, **attributes)[0]

    def nodes_of(
        self, operator: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """The results of an operator."""
        bodies = any(isinstance(value, onnx.GraphProto) for value in attributes.values())
        key = (operator, tuple(inputs), outputs, repr(sorted(attributes.items())))
        known = None if bodies else self._find(key)
        if known is not None:
            return known
        names = tuple(self.new_name(operator) for _ in range(outputs))
        made = helper.make_node(operator, inputs, names, name=names[0], **attributes)
        self.nodes.append(made)
        self._maker.update(dict.fromkeys(names, made))
        self._made[key] = names
        return names

    def copy(self, name: str, new_name: str) -> None:
        """Gives a tensor a second name."""
        self.nodes.append(helper.make_node("Identity", [name], [new_name], name=new_name))

    def constant(self, array: np.ndarray) -> str:
        """The name of an array that is stored in the model, once."""
        root = self.root
        array = np.asarray(array, order="C")
        digest = hashlib.sha256(array.tobytes()).digest()
        key = (array.dtype.str, array.shape, digest)
        if key not in root._constants:
            name = self.new_name("constant")
            root._initializers.append(numpy_helper.from_array(array, name))
            root._constants[key] = name
        return root._constants[key]

    def integers(self, values: Iterable[int]) -> str:
        """A constant vector of int64, such as axes and shapes."""
        return self.constant(np.array(list(values), np.int64))

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node of this graph, or of those around it, whose result has a name."""
        found = self._maker.get(name)
        return self.parent.maker(name) if found is None and self.parent else found

    def body(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """This graph as the body of a loop or a branch, without nodes that nothing reads."""
        nodes = list(_needed(self.nodes, {output.name for output in outputs}))[::-1]
        return helper.make_graph(nodes, name, inputs, outputs)

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """This graph as a model, without nodes and constants that nothing reads."""
        nodes = list(_needed(self.nodes, {output.name for output in outputs}))[::-1]
        read = set(itertools.chain.from_iterable(map(_reads, nodes)))
        constants = [tensor for tensor in self._initializers if tensor.name in read]
        graph = helper.make_graph(nodes, "nonlocal_jax", inputs, outputs, constants)
        return helper.make_model(
            graph,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="nonlocal_jax",
        )

    def _find(self, key: object) -> tuple[str, ...] | None:
        known = self._made.get(key)
        return self.parent._find(key) if known is None and self.parent else known


def _needed(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes that `wanted` depends on, from the last to the first."""
    wanted = set(wanted)
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(_reads(node))
            yield node


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads; of a loop or a branch, also those that its body reads."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from (output.name for output in attribute.g.output)
            for inner in attribute.g.node:
                yield from _reads(inner)
