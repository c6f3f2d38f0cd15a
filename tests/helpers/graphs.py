"""What MindSpore's compiler makes of a Cell, before the backend of a device sees it."""

from collections import Counter

from mindspore import Tensor
from mindspore.common import api
from mindspore.train.mind_ir_pb2 import ModelProto


def operators(cell, *inputs: Tensor) -> Counter:
    """How many operators of each kind the graph of a Cell contains."""
    executor = getattr(api, "_cell_graph_executor", None) or api._executor
    phase, _ = executor.compile(cell, *inputs, phase="export.operators", do_convert=False)
    model = ModelProto()
    model.ParseFromString(executor._get_func_graph_proto(cell, phase, "mind_ir"))
    nodes = [node for graph in (model.graph, *model.functions) for node in graph.node]
    return Counter(node.op_type.split("::")[-1].split(":")[0] for node in nodes)
