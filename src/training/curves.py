"""Plots of a run's history, `output_path/curves.png`."""

from __future__ import annotations

import json

from src.utils.output import atomic_write

CURVES = "curves.png"


def draw_curves(history_path: str, path: str) -> None:
    """Plot loss with its parts, validation loss, learning rate and mAP over the epochs of a history (one JSON object
    per line)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with open(history_path, encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle if line.strip()]
    for row in rows:  # null: all steps of the epoch were skipped
        row.update({key: float("nan") for key in ("loss", "loss_class", "loss_box") if row[key] is None})
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(12, 3.6), dpi=100)
    loss, rate, score = figure.subplots(1, 3, sharex=True)
    mark = "o" if len(rows) < 40 else None
    for key, name, colour in (
        ("loss", "loss", "#222222"),
        ("loss_class", "classes", "#3b7dd8"),
        ("loss_box", "boxes", "#d8743b"),
    ):
        loss.plot(epochs, [row[key] for row in rows], label=name, color=colour, marker=mark, markersize=3)
    validated = [row for row in rows if "validation_loss" in row]
    if validated:
        of_epochs = [row["epoch"] for row in validated], [row["validation_loss"] for row in validated]
        loss.plot(*of_epochs, label="validation", color="#2a9d4a", marker="o", markersize=3)
    losses = [row["loss"] for row in rows if row["loss"] == row["loss"]]
    if losses and max(losses) > 20 * min(losses) > 0:
        loss.set_yscale("log")
    loss.legend(frameon=False)
    rate.plot(epochs, [row["lr"] for row in rows], color="#3b7dd8", marker=mark, markersize=3)
    scored = [row for row in rows if "mAP" in row]
    score.plot(
        [row["epoch"] for row in scored], [row["mAP"] for row in scored], color="#2a9d4a", marker="o", markersize=3
    )
    if not scored:
        score.text(0.5, 0.5, "not evaluated during training\n(see --run_eval)", ha="center", transform=score.transAxes)
    for axes, title in ((loss, "training loss"), (rate, "learning rate at the end of the epoch"), (score, "mAP")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    score.set_ylim(bottom=0, top=None if scored else 1)
    figure.tight_layout()
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png")
