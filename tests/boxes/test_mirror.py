"""Which default box mirrors which: shown with the default boxes themselves."""

import numpy as np
import pytest

from src.boxes.default_boxes import build_default_boxes, grid_layout, ssd300_default_boxes
from src.boxes.mirror import average_with_mirrored, mirror_permutation
from src.config import load_config
from src.config.networks import NETWORKS


def mirrored(yxyx):
    """Boxes of the mirror image, in [0, 1]."""
    y1, x1, y2, x2 = yxyx.astype(np.float64).T
    return np.stack([y1, 1 - x2, y2, 1 - x1], 1)


def test_two_levels_by_hand():
    # a level of 1 x 3 cells with 2 boxes, and one of 2 x 2 cells with one box
    assert mirror_permutation([[1, 3, 2], [2, 2, 1]]).tolist() == [4, 5, 2, 3, 0, 1, 7, 6, 9, 8]
    assert mirror_permutation([]).tolist() == []


@pytest.mark.parametrize("options", [(), ("--anchor_octaves=3", "--anchor_ratios=[1.0, 3.0]")])
@pytest.mark.parametrize("size", [[128, 128], [256, 384], [384, 128]])
@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].has_shared_head])
def test_default_boxes_of_the_fpn_networks(name, size, options):
    cfg = load_config([f"--model_name={name}", f"--img_shape={size}", "--device_target=CPU", *options])
    boxes, rows = build_default_boxes(cfg)[1], mirror_permutation(grid_layout(cfg))
    np.testing.assert_allclose(mirrored(boxes), boxes[rows], atol=1e-6, rtol=0)
    assert (rows[rows] == np.arange(len(boxes))).all()


@pytest.mark.parametrize("side", [300, 512])
@pytest.mark.parametrize("name", [name for name in NETWORKS if not NETWORKS[name].has_shared_head])
def test_default_boxes_of_the_300_networks(name, side):
    """Their published grids are not as wide as the image, and so not quite symmetric: each level is off by the same
    part of the image in x."""
    cfg = load_config([f"--model_name={name}", f"--img_shape=[{side}, {side}]", "--device_target=CPU"])
    layout = grid_layout(cfg)
    cyxhw, boxes = build_default_boxes(cfg)
    rows = mirror_permutation(layout)
    assert len(rows) == len(boxes) == cfg.num_ssd_boxes
    wider = [columns * step / side - 1 for (_, columns, _), step in zip(layout, cfg.steps)]
    wider = np.repeat(wider, [height * columns * shapes for height, columns, shapes in layout])
    assert np.abs(wider).max() < 0.1
    np.testing.assert_allclose(boxes[rows] - mirrored(boxes), np.outer(wider, [0, 1, 0, 1]), atol=1e-6)
    assert (cyxhw[rows][:, [0, 2, 3]] == cyxhw[:, [0, 2, 3]]).all()


def test_the_ssd300_layout_where_the_grid_fits():
    boxes = ssd300_default_boxes((300, 300), [4, 2, 1], [75, 150, 300], [3, 6, 4], [[], [2, 3], [2]], 0.2, 0.95)[1]
    rows = mirror_permutation([(4, 4, 3), (2, 2, 6), (1, 1, 4)])
    np.testing.assert_allclose(mirrored(boxes), boxes[rows], atol=1e-6, rtol=0)


def test_a_layout_of_another_network_is_refused():
    with pytest.raises(ValueError, match="a layout of 6 default boxes, but 5 boxes"):
        rows = mirror_permutation([[1, 3, 2]])
        average_with_mirrored(*[np.zeros((1, 5, 4)), np.zeros((1, 5, 2))] * 2, rows)
