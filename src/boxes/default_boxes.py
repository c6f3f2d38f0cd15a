"""Default boxes (docs/reference.md, "Default boxes" and "SSD300 layout"): the grids of the FPN head, and SSD300."""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

import numpy as np

from src.boxes.ops import cyxhw_to_yxyx
from src.utils.errors import UserError


def default_boxes(
    image_shape: Sequence[int],
    steps: Sequence[int] = (8, 16, 32, 64, 128),
    *,
    base_scale: float = 4.0,
    octave_scales: Sequence[float] = (1.0, 2**0.5),
    aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5),
) -> tuple[np.ndarray, np.ndarray]:
    """The multi-scale grid; docs/reference.md, "Default boxes".

    Args:
        image_shape: (H, W) in pixels.
        steps: stride of each level.
        base_scale: base size of a level's boxes in strides.
        octave_scales, aspect_ratios (width / height): boxes of a cell, ratio-major.

    Returns:
        cyxhw, yxyx: float32 [N, 4] each, normalised by H and W, not clipped. Levels in the order of
        `steps`, cells row-major. 640 x 640 gives N = 51150.

    Raises:
        UserError: H or W is no multiple of the steps.
    """
    height, width = (int(size) for size in image_shape)
    # Every level but the last must divide: there the grid is rounded up, as the published grid is. A
    # network needs more (config: multiples of the largest step).
    divisor = sorted(steps)[-2] if len(steps) > 1 else steps[0]
    if height < 1 or width < 1 or height % divisor or width % divisor:
        raise UserError(
            f"img_shape: height and width must be multiples of the largest step {max(steps)}, got [{height}, {width}]"
        )
    # float32 throughout and in this order: matching breaks ties between boxes of equal area by the last
    # bit of their corners, so published targets need published bits
    scales = np.array([s for _ in aspect_ratios for s in octave_scales], np.float32)
    root = np.sqrt(np.array([r for r in aspect_ratios for _ in octave_scales], np.float32))
    levels = []
    for step in steps:
        base = np.float32(base_scale * step)
        rows, columns = -(-height // step), -(-width // step)
        cells = np.empty((rows, columns, scales.size, 4), np.float32)
        cells[..., 0] = ((np.arange(rows) + 0.5) * step)[:, None, None]
        cells[..., 1] = ((np.arange(columns) + 0.5) * step)[None, :, None]
        cells[..., 2] = scales / root * base
        cells[..., 3] = scales * root * base
        levels.append(cells.reshape(-1, 4))
    cyxhw_px = np.concatenate(levels)
    size = np.array([height, width, height, width], np.float32)
    return cyxhw_px / size, cyxhw_to_yxyx(cyxhw_px) / size


def ssd300_default_boxes(
    image_shape: Sequence[int],
    feature_size: Sequence[int],
    steps: Sequence[int],
    num_default: Sequence[int],
    aspect_ratios: Sequence[Sequence[float]],
    min_scale: float,
    max_scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The older SSD300 layout (`use_anchor_generator False`); docs/reference.md, "SSD300 layout".

    Scales grow linearly from `min_scale` to `max_scale`; a level has the square box, each ratio and its
    inverse, and the square box of the geometric mean with the next scale last. A first level without
    ratios has (0.1, 0.1), (w, h) and (h, w) of ratio 2. Returns as `default_boxes`.
    """
    height, width = image_shape
    levels = len(feature_size)
    scales = [min_scale + (max_scale - min_scale) * k / max(levels - 1, 1) for k in range(levels)] + [1.0]
    rows = []
    for k, (size, step) in enumerate(zip(feature_size, steps)):
        scale, mean = scales[k], math.sqrt(scales[k] * scales[k + 1])
        if k == 0 and not aspect_ratios[k]:
            w, h = scale * math.sqrt(2), scale / math.sqrt(2)
            sizes = [(0.1, 0.1), (w, h), (h, w)]
        else:
            sizes = [(scale, scale)]
            for ratio in aspect_ratios[k]:
                w, h = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
                sizes += [(w, h), (h, w)]
            sizes.append((mean, mean))
        if len(sizes) != num_default[k]:
            raise UserError(
                f"num_default[{k}] is {num_default[k]}, but aspect_ratios[{k}] = {list(aspect_ratios[k])} "
                f"gives {len(sizes)} boxes per cell"
            )
        for i in range(size):
            for j in range(size):
                rows += [((i + 0.5) / (height / step), (j + 0.5) / (width / step), h, w) for w, h in sizes]
    cyxhw = np.array(rows, np.float64)
    return cyxhw.astype(np.float32), cyxhw_to_yxyx(cyxhw).astype(np.float32)


def build_default_boxes(cfg) -> tuple[np.ndarray, np.ndarray]:
    """Default boxes of a config: (cyxhw, yxyx), float32 [N, 4] each."""
    if cfg.use_anchor_generator:
        octaves = [2 ** (octave / cfg.anchor_octaves) for octave in range(cfg.anchor_octaves)]
        return default_boxes(
            cfg.img_shape,
            cfg.steps,
            base_scale=cfg.anchor_scale,
            octave_scales=octaves,
            aspect_ratios=cfg.anchor_ratios,
        )
    return ssd300_default_boxes(
        cfg.img_shape, cfg.feature_size, cfg.steps, cfg.num_default, cfg.aspect_ratios, cfg.min_scale, cfg.max_scale
    )


def grid_layout(cfg) -> List[Tuple[int, int, int]]:
    """(rows, columns, boxes per cell) of each level. Default boxes, and the network's outputs, come level by level,
    cells row-major, the boxes of a cell one after another."""
    if cfg.use_anchor_generator:
        grids = [[-(-side // step) for side in cfg.img_shape] for step in cfg.steps]
    else:
        grids = [[size, size] for size in cfg.feature_size]
    return [(rows, columns, boxes) for (rows, columns), boxes in zip(grids, cfg.num_default)]


def default_box_keys(cfg) -> dict:
    """The keys of a config that decide what a network's box outputs mean, at any image size."""
    keys = ["use_anchor_generator", "prior_scaling", "num_default"]
    if cfg.use_anchor_generator:
        keys += ["anchor_scale", "anchor_octaves", "anchor_ratios"]
    else:
        keys += ["aspect_ratios", "min_scale", "max_scale"]
    return {key: cfg[key] for key in keys}
