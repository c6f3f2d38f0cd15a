"""Straightforward versions of what `scripts/benchmark.py` measures, to compare with."""

from __future__ import annotations

import cv2
import numpy as np

from src.boxes.coder import BoxCoder
from src.boxes.ops import iou, yxyx_to_cyxhw
from src.data.transforms import JITTER, MEAN, STD, horizontal_flip, normalize_boxes, random_crop, resize
from src.utils.drawing import BLACK, DRAWN, FONT, WHITE, class_colour


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


def draw_detections(image: np.ndarray, boxes_px: np.ndarray, labels, scores, names) -> np.ndarray:
    """`src.utils.drawing.draw_detections` for pictures of at least 480 and at most 900 pixels: smooth lines, and each
    plate compared with all others."""
    image = np.ascontiguousarray(image).copy()
    order = np.argsort(scores, kind="stable")[-DRAWN:]
    for row in order:
        box = boxes_px[row]
        thickness = max(1, min(2, int(min(box[2] - box[0], box[3] - box[1]) // 8)))
        y1, x1, y2, x2 = (int(round(v)) for v in np.clip(box, thickness, np.array(image.shape[:2] * 2) - 1 - thickness))
        if thickness > 1:
            cv2.rectangle(image, (x1, y1), (x2, y2), BLACK, thickness + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x1, y1), (x2, y2), class_colour(int(labels[row])), thickness, cv2.LINE_AA)
    tags, small = [], [box for box in boxes_px[order] if _shared(box, box) < 4000]
    for row in order[::-1]:
        text = f"{names[labels[row]]} {scores[row]:.2f}"
        taken = [plate for _, _, plate in tags] + small
        plates = _plates(image, text, boxes_px[row])
        tags.append((text, row, min(plates, key=lambda plate: sum(_shared(plate, other) for other in taken))))
    for text, row, (top, left, bottom, right) in tags[::-1]:
        colour = class_colour(int(labels[row]))
        cv2.rectangle(image, (left, top), (right, bottom), colour, -1)
        bright = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] > 140
        cv2.putText(image, text, (left + 3, bottom - 4), FONT, 0.45, BLACK if bright else WHITE, 1, cv2.LINE_AA)
    return image


def _plates(image: np.ndarray, text: str, box_px) -> list:
    (width, height), _ = cv2.getTextSize(text, FONT, 0.45, 1)
    width, height = width + 6, height + 9
    y1, x1, y2, x2 = (int(round(v)) for v in box_px)
    corners = ((y1 - height, x1), (y1, x1), (y2, x1), (y2 - 1, x1), (y1 - height, x2 - width), (y2, x2 - width))
    plates = []
    for top, left in corners:
        top = int(np.clip(top, 0, max(image.shape[0] - height, 0)))
        left = int(np.clip(left, 0, max(image.shape[1] - width, 0)))
        plates.append((top, left, top + height, left + width))
    return plates


def _shared(first, second) -> float:
    rows = min(first[2], second[2]) - max(first[0], second[0])
    columns = min(first[3], second[3]) - max(first[1], second[1])
    return max(rows, 0) * max(columns, 0)
