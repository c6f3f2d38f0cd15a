"""Straightforward matching, augmentation, post-processing and conversion: the baselines of `scripts/benchmark.py`."""

from __future__ import annotations

import numpy as np

from src.boxes.coder import BoxCoder
from src.boxes.ops import iou, yxyx_to_cyxhw
from src.data.transforms import JITTER, MEAN, STD, horizontal_flip, normalize_boxes, random_crop, resize


def encode(gt: np.ndarray, cyxhw: np.ndarray, yxyx: np.ndarray, threshold: float, prior_scaling) -> tuple:
    """As `encode_targets`, by comparing every ground truth with every default box."""
    owner = np.full(len(yxyx), -1)
    best_score = np.zeros(len(yxyx), np.float32)
    for row, box in enumerate(gt):
        score = iou(yxyx, box[:4])
        score[np.argmax(score)] = 2.0
        matched = (score > threshold) & (score > best_score)
        best_score = np.maximum(best_score, score)
        owner = np.where(matched, row, owner)
    label = np.where(owner >= 0, gt[owner, 4], 0).astype(np.int32)
    rows = np.flatnonzero(label > 0)
    loc = np.zeros((len(yxyx), 4), np.float32)
    loc[rows] = BoxCoder(prior_scaling).encode(yxyx_to_cyxhw(gt[owner[rows], :4]), cyxhw[rows])
    return loc, label, len(rows)


def postprocess(boxes_norm, scores, image_shape, min_score: float, nms_threshold: float, max_boxes: int) -> tuple:
    """As `src.boxes.postprocess.postprocess`, with a loop over classes and over the boxes that NMS keeps."""
    height, width = image_shape
    found = []
    for label in range(1, scores.shape[1]):
        mask = scores[:, label] > min_score
        boxes = boxes_norm[mask] * np.array([height, width, height, width], np.float64)
        of_class = scores[mask, label]
        for kept in _nms(boxes, of_class, nms_threshold, max_boxes):
            found.append((*boxes[kept].tolist(), float(of_class[kept]), label))
    return found


def _nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> list:
    y1, x1, y2, x2 = boxes.T
    areas = (y2 - y1 + 1) * (x2 - x1 + 1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order) and len(kept) < most:
        best, rest = order[0], order[1:]
        kept.append(best)
        height = np.maximum(np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + 1, 0)
        width = np.maximum(np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + 1, 0)
        inter = height * width
        order = rest[inter / (areas[best] + areas[rest] - inter) <= threshold]
    return kept


def training_batches(record_file: str, cfg, defaults: tuple):
    """An epoch of batches from a chain of MindSpore dataset operations: (ids, images float32 [B, 3, H, W], targets)."""
    import mindspore.dataset as ds
    from mindspore.dataset import vision

    rng = np.random.default_rng(1)

    def augment(image, annotation):
        image, boxes = random_crop(image, annotation.reshape(-1, 5), rng)
        boxes_norm = normalize_boxes(boxes, *image.shape[:2])
        image = resize(image, cfg.img_shape)
        if rng.random() < 0.5:
            image, boxes_norm = horizontal_flip(image, boxes_norm)
        loc, label, _ = encode(boxes_norm, *defaults, cfg.match_threshold, cfg.prior_scaling)
        return np.ascontiguousarray(image), np.concatenate([loc, label[:, None].astype(np.float32)], 1)

    workers = cfg.num_parallel_workers
    rows = ds.MindDataset(record_file, ["img_id", "image", "annotation"], num_parallel_workers=workers)
    rows = rows.map(vision.Decode(), ["image"], num_parallel_workers=workers)
    columns = ["image", "annotation"]
    rows = rows.map(augment, columns, columns, num_parallel_workers=workers, python_multiprocessing=False)
    colour = vision.RandomColorAdjust(*[(1 - JITTER, 1 + JITTER)] * 3)
    operations = [colour, vision.Normalize(MEAN.tolist(), STD.tolist()), vision.HWC2CHW()]
    rows = rows.map(operations, ["image"], num_parallel_workers=workers)
    return rows.batch(cfg.batch_size, drop_remainder=True).create_tuple_iterator(num_epochs=1)


def convert(samples: list, path: str) -> None:
    """Write MindRecord files, one image and one row at a time."""
    from mindspore.mindrecord import FileWriter

    from src.data.images import decode_rgb
    from src.data.records.writer import SCHEMA

    writer = FileWriter(path, 8, overwrite=True)
    writer.add_schema(SCHEMA, "ssd")
    for number, sample in enumerate(samples):
        with open(sample.path, "rb") as handle:
            content = handle.read()
        decode_rgb(content)
        boxes = np.asarray(sample.boxes, np.int32).reshape(-1, 5)
        writer.write_raw_data([{"img_id": np.array([number], np.int32), "image": content, "annotation": boxes}])
    writer.commit()
