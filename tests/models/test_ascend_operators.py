"""Every operator of the float16 training step has an Ascend kernel, by the lists in the wheel of MindSpore 1.10."""

import glob
import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

KERNELS = os.path.join(os.path.dirname(importlib.util.find_spec("mindspore").origin), "ops", "_op_impl")
# not computed: order, parameters and tuples of the graph
GRAPH = {"Depend", "Load", "MakeTuple", "TupleGetItem", "UpdateState"}
CODE = """
import sys
import numpy as np
from src.config import load_config
from src.utils.device import init_device, prepare_environment
prepare_environment()
cfg = load_config(["--device_target=CPU", "--use_float16=True", "--batch_size=2", "--img_shape=[128, 128]"])
init_device(cfg)
import mindspore as ms
from src.models.build import build_model
from src.training.step import build_train_step
ms.set_context(save_graphs=True, save_graphs_path=sys.argv[1])
step = build_train_step(build_model(cfg), cfg, np.full(1, 0.01, np.float32))
shape = (2, cfg.num_ssd_boxes)
arrays = [np.zeros((2, 128, 128, 3), np.uint8), np.zeros((*shape, 4), np.float32), np.ones(shape, np.int32)]
step(*map(ms.Tensor, (*arrays, np.full((2, 1), 5, np.float32))))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir(os.path.join(KERNELS, "tbe")), reason="this MindSpore has no lists of kernels")
def test_every_operator_has_an_ascend_kernel(tmp_path):
    environment = dict(os.environ, PYTHONPATH=ROOT, SSD_PLAIN_CONV="1")  # the convolutions that a device gets
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used, kernels = set(), set()
    for path in glob.glob(str(tmp_path / "*_validate_*.ir")):
        with open(path, encoding="utf-8", errors="replace") as handle:
            used.update(re.findall(r"^\s*%\d+\(\S*\) = (\w+)\(", handle.read(), re.M))
    for kind, call in (("tbe", "TBERegOp"), ("aicpu", "AiCPURegOp")):
        for path in glob.glob(os.path.join(KERNELS, kind, "*.py")):
            with open(path, encoding="utf-8") as handle:
                kernels.update(re.findall(rf'{call}\("(\w+)"\)', handle.read()))
    assert {"Conv2D", "Conv2DBackpropFilter", "BatchNormGrad", "MaxPoolGrad", "SigmoidGrad"} <= used
    assert not used - kernels - GRAPH
