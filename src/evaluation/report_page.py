"""The HTML of the evaluation report: metrics, tables, plots and pictures in one file."""

from __future__ import annotations

import base64
import html
import io
from typing import List, Sequence, Tuple

import numpy as np

from src.evaluation.error_kinds import MEANINGS
from src.evaluation.metrics_table import COCO_METRICS, threshold_line

SHOWN_CLASSES = 30  # in the confusion matrix

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid #ddd}.note{color:#555}
table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #e4e4e4}
td:first-child,th:first-child,td.text,th.text{text-align:left}th{position:sticky;top:0;background:#fff}
th[data-sort]{cursor:pointer;text-decoration:underline dotted}
.big{font-size:1.8em;font-weight:600}.big span{display:inline-block;margin-right:1em}
.big small{font-size:.5em;font-weight:400;color:#555}
.why{background:#fff4e0;border-left:4px solid #e09b2d;padding:.6em 1em}
.tiles{display:flex;flex-wrap:wrap;gap:14px}.tiles figure{margin:0;max-width:270px}.tiles img{width:100%}
figcaption{font-size:.85em;color:#555}.matrix td,.matrix th{padding:.15em .45em;font-size:.85em}
.matrix th.up{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left}img.chart{max-width:100%}
@media(max-width:640px){body{margin:1em auto}table{display:block;overflow-x:auto}
td,th{padding:.2em .4em;font-size:.85em}.tiles figure{max-width:none}}
"""

# sorting: by a click on a column header, or by the end of the address (report.html#sort=AP)
_SCRIPT = """
function sortBy(head){
 var table=head.closest('table'),column=Array.prototype.indexOf.call(head.parentNode.children,head);
 var rows=Array.prototype.slice.call(table.tBodies[0].rows),text=head.dataset.sort==='text';
 var down=head.dataset.down!=='1';head.dataset.down=down?'1':'0';
 function key(row){var t=row.cells[column].textContent;return text?t:(t==='-'||t==='absent'?-1:parseFloat(t))}
 rows.sort(function(a,b){var x=key(a),y=key(b),s=x<y?-1:x>y?1:0;return (down&&!text)||(!down&&text)?-s:s});
 rows.forEach(function(row){table.tBodies[0].appendChild(row)});
}
document.querySelectorAll('th[data-sort]').forEach(function(head){head.addEventListener('click',function(){sortBy(head)})});
var wanted=location.hash.match(/^#sort=(.+)$/);
if(wanted)document.querySelectorAll('th[data-sort]').forEach(function(head){if(head.textContent===decodeURIComponent(wanted[1]))sortBy(head)});
"""


def report_page(metrics: dict, best: Sequence[Tuple[str, bytes]], worst: Sequence[Tuple[str, bytes]]) -> str:
    """The text of report.html.

    Args:
        metrics: the content of evaluation.json, see `src.evaluation.report.write_report`.
        best, worst: (caption, JPEG) of each picture.
    """
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Evaluation</title><style>{_STYLE}</style>",
        f"<h1>Evaluation</h1><p class=note>{html.escape(metrics['model'])}<br>{metrics['images']} images, "
        f"{metrics['detections']} detections</p>",
        f"<p class=big><span>{metrics['mAP']:.4f} <small>mAP, all images{_interval(metrics, ', 95 %: ')}</small>"
        f"</span> "
        f"<span>{metrics['mAP_published']:.4f} <small>mAP, published protocol ({metrics['images_published']} images "
        f"without crowds)</small></span></p>",
    ]
    if metrics["score_thresholds"]:
        parts.append(f"<p class=note>{threshold_line(metrics['score_thresholds'])}</p>")
    if metrics["note"]:
        parts.append(f"<p class=note>{html.escape(metrics['note'])}</p>")
    if metrics["diagnosis"]:
        rows = "".join(f"<li>{html.escape(line)}</li>" for line in metrics["diagnosis"])
        parts.append(f"<div class=why id=why><b>Why the mAP is close to zero</b><ul>{rows}</ul></div>")
    parts += ["<h2>COCO metrics</h2>", _coco_table(metrics), "<h2>Classes</h2>", _class_table(metrics)]
    if metrics["errors"]:
        parts += ["<h2>Errors by kind</h2>", _errors_table(metrics["errors"])]
    parts += ["<h2>Precision and recall</h2>", _picture(_curves(metrics), "precision-recall curves")]
    parts += ["<h2>Object size</h2>", _picture(_sizes(metrics), "AP and AR by object size")]
    parts += ["<h2>Confusion matrix</h2>", _matrix(metrics)]
    colours = (
        "Green: ground truth. Other colours: detections with a score of at least "
        f"{metrics['confusion_min_score']:.2f}. F1 at IoU 0.5."
    )
    parts += [f"<h2>Best images</h2><p class=note>{colours}</p>", _tiles(best)]
    parts += ["<h2>Worst images</h2>", _tiles(worst), f"<script>{_SCRIPT}</script></html>\n"]
    return "\n".join(parts)


def _format_metric(value) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"


def _interval(metrics: dict, before: str = "", key: str = "mAP", name: str = "") -> str:
    """The 95 % interval of a metric, of class `name` if given; "" where there is none."""
    rows = metrics["intervals"]
    found = (rows.get("classes", {}).get(name, {}) if name else rows).get(key)
    return f"{before}{found[0]:.4f} to {found[1]:.4f}" if found else ""


def _threshold(metrics: dict, name: str) -> str:
    """Two cells: the best F1 of a class and its threshold."""
    row = metrics["score_thresholds"].get("classes", {}).get(name)
    return f"<td>{row['F1']:.4f}</td><td>{row['threshold']:.3f}</td>" if row else "<td>-</td><td>-</td>"


def _coco_table(metrics: dict) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{overlap}</td><td>{area}</td><td>{most}</td><td>{_format_metric(value)}</td><td>{_format_metric(published)}</td>"
        f"<td>{_interval(metrics, key={'AP': 'mAP'}.get(name, name))}</td></tr>"
        for (name, overlap, area, most), value, published in zip(
            COCO_METRICS, metrics["stats"], metrics["stats_published"]
        )
    )
    head = "<tr><th>metric<th>IoU<th>area<th>detections<th>all images<th>published subset<th>all images, 95 %</tr>"
    return f"<table id=metrics><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _class_table(metrics: dict) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{row['boxes'] if row['AP'] is not None else 'absent'}</td>"
        f"<td>{_format_metric(row['AP'])}</td><td>{_format_metric(row['AP50'])}</td><td>{_format_metric(row['AR100'])}</td>"
        f"<td>{_interval(metrics, key='AP', name=row['name'])}</td>{_threshold(metrics, row['name'])}</tr>"
        for row in metrics["per_class"]
    )
    head = "<th data-sort=text>class</th>" + "".join(
        f"<th data-sort=number>{title}</th>"
        for title in ("boxes", "AP", "AP50", "AR100", "AP, 95 %", "best F1", "from score")
    )
    present, count = sum(row["AP"] is not None for row in metrics["per_class"]), len(metrics["per_class"])
    note = f"<p class=note>Click a column header to sort. The mean is over {present} of {count} classes. "
    note += "95 %: the interval that 95 % of 1,000 resamples of the images fall into (bootstrap).</p>"
    return f"<table id=classes><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}"


def _errors_table(errors: dict) -> str:
    rows = [(kind, row["count"], row["dAP50"], MEANINGS[kind]) for kind, row in errors["kinds"].items()]
    rows.append(("false positives", "", errors["false_positives"], "without any detection that is wrong"))
    rows.append(("false negatives", "", errors["false_negatives"], "if objects without a detection did not count"))
    rows = "".join(
        f"<tr><td>{name}</td><td>{count}</td><td>{cost:.4f}</td><td class=text>{meaning}</td></tr>"
        for name, count, cost, meaning in rows
    )
    head = "<tr><th>kind<th>number<th>AP50 it costs<th class=text>meaning</tr>"
    note = (
        f"How much AP50 ({errors['AP50']:.4f} over the best {errors['max_detections']} detections of each image) rises "
        f"if all errors of one kind are fixed (TIDE, Bolya et al. 2020). The kinds do not add up: fixing one uncovers "
        f"others."
    )
    advice = ""
    if "largest" in errors:
        advice = f"<p class=why>Largest: {errors['largest']}. {html.escape(errors['advice'])}.</p>"
    return f"<p class=note>{note}</p><table id=errors><thead>{head}</thead><tbody>{rows}</tbody></table>{advice}"


def _matrix(metrics: dict) -> str:
    """The confusion matrix; of many classes, those with the most objects and detections."""
    table, names = np.array(metrics["confusion"]), metrics["classes"]
    order = np.argsort(-(table.sum(axis=1) + table.sum(axis=0))[1:], kind="stable") + 1
    shown = sorted(order[:SHOWN_CLASSES].tolist())
    heads = "".join(f"<th class=up>{html.escape(names[k])}</th>" for k in shown) + "<th class=up>background</th>"
    rows = []
    for row in [*shown, 0]:
        total = max(int(table[row].sum()), 1)
        cells = "".join(_cell(int(table[row, column]), total, column == row) for column in [*shown, 0] if row or column)
        rows.append(f"<tr><td>{html.escape(names[row]) if row else 'background'}</td>{cells}</tr>")
    note = (
        f"Rows: true class; columns: predicted class (IoU 0.5, score at least {metrics['confusion_min_score']:.2f}). "
        f"Row background: detections without an object; column background: missed objects."
    )
    if len(names) - 1 > SHOWN_CLASSES:
        note += f" The {SHOWN_CLASSES} most frequent of {len(names) - 1} classes."
    return f"<p class=note>{note}</p><table class=matrix id=confusion><tr><th></th>{heads}</tr>{''.join(rows)}</table>"


def _cell(count: int, total: int, right: bool) -> str:
    shade = f"rgba({'42,157,74' if right else '216,116,59'},{0.75 * count / total:.2f})"
    return f"<td style='background:{shade}'>{count or ''}</td>"


def _tiles(pictures: Sequence[Tuple[str, bytes]]) -> str:
    if not pictures:
        return "<p class=note>none</p>"
    tiles = "".join(
        f"<figure><img alt='{html.escape(caption)}' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for caption, data in pictures
    )
    return f"<div class=tiles>{tiles}</div>"


def _picture(png: bytes, alt: str) -> str:
    return f"<img class=chart alt='{alt}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _png(figure) -> bytes:
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _curves(metrics: dict) -> bytes:
    """Plot of precision over recall at IoU 0.5: the mean and, of many classes, the five best and five worst."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4), dpi=110)
    axes, curves = figure.add_subplot(), metrics["curves"]
    names: List[str] = sorted(curves["classes"], key=lambda name: -float(np.mean(curves["classes"][name])))
    chosen = names if len(names) <= 10 else names[:5] + names[-5:]
    for name in chosen:
        axes.plot(
            curves["recall"], curves["classes"][name], lw=1, label=f"{name} ({np.mean(curves['classes'][name]):.2f})"
        )
    if names:
        mean = np.mean([curves["classes"][name] for name in names], axis=0)
        axes.plot(curves["recall"], mean, color="#222", lw=2.5, label=f"mean of {len(names)} ({mean.mean():.2f})")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision, IoU 0.5")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    if names:
        axes.legend(frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
    return _png(figure)


def _sizes(metrics: dict) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), dpi=110)
    axes, stats = figure.add_subplot(), metrics["stats"]
    for shift, first, name, colour in ((-0.2, 3, "AP", "#3b7dd8"), (0.2, 9, "AR100", "#2a9d4a")):
        values = [max(value, 0) for value in stats[first : first + 3]]
        bars = axes.bar(np.arange(3) + shift, values, 0.38, label=name, color=colour)
        axes.bar_label(
            bars, ["absent" if value < 0 else f"{value:.3f}" for value in stats[first : first + 3]], fontsize=8
        )
    axes.set_xticks(range(3))
    axes.set_xticklabels(["small\n(below 32 x 32)", "medium", "large\n(96 x 96 and more)"])
    axes.margins(y=0.15)
    axes.legend(frameon=False)
    return _png(figure)
