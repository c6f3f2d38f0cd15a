"""freeze_layer=backbone in the other four networks: what stays trainable, and what a step leaves as it is."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from src.config import NETWORKS, load_config
from src.models.build import build_model, freeze
from src.models.layers import BatchNorm2d
from src.training.step import build_train_step

# start of the names of the backbone -> number of its BN
BACKBONES = {
    "ssd_mobilenet_v1_fpn": ("feature_extractor.mobilenet_v1.", 27),
    "ssd300": ("backbone.", 53),
    "ssd_mobilenet_v1": ("feature_extractor.mobilenet_v1.", 27),
    "ssd_vgg16": ("backbone.", 0),
}
# the smallest image that has all levels, or a small one
SIDES = {"ssd_mobilenet_v1_fpn": 128, "ssd300": 96, "ssd_mobilenet_v1": 96, "ssd_vgg16": 257}


def config(name, *options):
    options = [f"--model_name={name}", "--device_target=CPU", "--use_float16=False", *options]
    return load_config(options)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_stays_trainable(cfg256, reference, name):
    prefix, count = BACKBONES[name]
    model = build_model(config(name))
    freeze(model, "backbone")
    rows = reference(f"family/{name}/params.json")["eval_net"]
    want = [key for key, _, _, trainable in rows if trainable and not key.startswith("network." + prefix)]
    assert ["network." + p.name for p in model.trainable_params()] == want
    assert len(want) < sum(row[3] for row in rows)
    norms = {name for name, cell in model.cells_and_names() if isinstance(cell, BatchNorm2d) and cell.frozen}
    assert len(norms) == count and all(norm.startswith(prefix) for norm in norms)


@pytest.mark.parametrize(
    "name",
    [name if name == "ssd_mobilenet_v1" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_a_step_leaves_the_backbone_as_it_is(cfg256, name):
    """Its weights and statistics; everything else moves, the statistics of all other BN too. VGG16 with BN."""
    side, prefix = SIDES[name], BACKBONES[name][0]
    sizes = NETWORKS[name].map_sides(side)
    options = [f"--img_shape=[{side}, {side}]", f"--feature_size={sizes}", "--num_ssd_boxes=-1"]
    cfg = config(name, *options, *["--ssd_vgg_bn=True"] * (name == "ssd_vgg16"))
    mindspore.set_seed(1)
    model = build_model(cfg)
    rng = np.random.default_rng(5)
    for parameter in model.get_parameters():  # statistics that no batch has, weights that let the images pass
        if parameter.name.endswith("moving_mean"):
            parameter.set_data(Tensor(rng.normal(0, 0.2, parameter.shape).astype(np.float32)))
        elif parameter.name.endswith("weight"):
            deviation = np.sqrt(2 / np.prod(parameter.shape[1:]))
            parameter.set_data(Tensor(rng.normal(0, deviation, parameter.shape).astype(np.float32)))
    freeze(model, "backbone")
    step = build_train_step(model, cfg, np.full(2, 0.05, np.float32))
    before = {p.name: p.asnumpy().copy() for p in model.get_parameters()}
    count = cfg.num_ssd_boxes
    images, label = rng.normal(0.3, 1.5, (2, 3, side, side)).astype(np.float32), np.zeros((2, count), np.int32)
    label[:, ::7] = 3
    step(*(Tensor(v) for v in (images, np.ones((2, count, 4), np.float32), label, np.full(2, 7, np.float32))))
    still = {p.name for p in model.get_parameters() if np.array_equal(p.asnumpy(), before[p.name])}
    assert still == {key for key in before if key.startswith("network." + prefix)}
    assert not any(p.name.startswith("moments.network." + prefix) for p in step.get_parameters())
