"""The result of an evaluation as text: the 12 COCO metrics by both protocols, and a table with one row per class."""

from __future__ import annotations

COCO_METRICS = (
    ("AP", "0.50:0.95", "all", 100),
    ("AP50", "0.50", "all", 100),
    ("AP75", "0.75", "all", 100),
    ("AP small", "0.50:0.95", "small", 100),
    ("AP medium", "0.50:0.95", "medium", 100),
    ("AP large", "0.50:0.95", "large", 100),
    ("AR1", "0.50:0.95", "all", 1),
    ("AR10", "0.50:0.95", "all", 10),
    ("AR100", "0.50:0.95", "all", 100),
    ("AR small", "0.50:0.95", "small", 100),
    ("AR medium", "0.50:0.95", "medium", 100),
    ("AR large", "0.50:0.95", "large", 100),
)
"""Name, IoU, area and number of detections per image of the 12 COCO metrics, in the order of pycocotools."""


def format_table(result: dict) -> str:
    """The result of `CocoEvaluator.summarize()` as lines of text, without a final line break."""
    lines = [
        f"{'':36}{'all images':>16}{'published subset':>20}",
        f"{'images':36}{result['images']:>16}{result['images_published']:>20}",
    ]
    for (name, iou, area, most), value, published in zip(COCO_METRICS, result["stats"], result["stats_published"]):
        what = f"{name:10} IoU {iou:10}{area:7}{most:>4}"
        lines.append(f"{what:36}{_format_metric(value):>16}{_format_metric(published):>20}")
    lines += ["", *_class_lines(result["per_class"])]
    if result["note"]:
        lines += ["", "note: " + result["note"]]
    return "\n".join(lines)


def threshold_line(thresholds: dict) -> str:
    """One line about the best threshold (`src.evaluation.score_thresholds`), "" without one."""
    if not thresholds:
        return ""
    row = thresholds["overall"]
    return (
        f"best F1 {row['F1']:.4f} with scores above {row['threshold']:.3f} (precision {row['precision']:.4f}, recall "
        f"{row['recall']:.4f}, IoU 0.5)"
    )


def _class_lines(per_class: list) -> list:
    """The table of classes; a class without ground truth is shown as absent."""
    width = max([len("class")] + [len(row["name"]) for row in per_class])
    lines = [f"{'class':{width}}  {'boxes':>8}{'AP':>9}{'AP50':>9}{'AR100':>9}"]
    for row in per_class:
        boxes = row["boxes"] if row["AP"] is not None else "absent"
        metrics = "".join(f"{_format_metric(row[key]):>9}" for key in ("AP", "AP50", "AR100"))
        lines.append(f"{row['name']:{width}}  {boxes:>8}{metrics}")
    present = sum(row["AP"] is not None for row in per_class)
    lines.append(f"the mean is over {present} of {len(per_class)} classes")
    return lines


def _format_metric(value) -> str:
    """Four decimals; "-" without ground truth (None, or pycocotools' -1)."""
    return "-" if value is None or value < 0 else f"{value:.4f}"
