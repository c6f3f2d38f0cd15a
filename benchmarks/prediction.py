"""`scripts/benchmark.py drawing prediction`: predict.py against the runtime alone and against one picture at a time.

The network has random weights and COCO's classes. The score threshold is set so that some dozens of boxes per picture
are detected and drawn, as with a trained network.
"""

from __future__ import annotations

import glob
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks import baselines
from benchmarks.data import coco_folder, photo
from src.inference.pictures import read_picture
from src.inference.predictor import Predictor
from src.utils.drawing import DRAWN, draw_detections
from src.utils.errors import RunError
from src.utils.output import write_picture

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROUNDS = 3
PAIRS_ABOVE = 50  # pairs of box and class per picture with a score above the threshold


def measure_drawing(table, options) -> None:
    """100 detections with names on a photo of 640 x 480."""
    image = cv2.imdecode(np.frombuffer(photo(0), np.uint8), cv2.IMREAD_COLOR)
    names = ["background", *(["person", "traffic light", "dog", "dining table"] * 20)]
    found = crowded_detections(image.shape[:2])
    times = {draw: [] for draw in (draw_detections, baselines.draw_detections)}
    for draw in list(times) * 5:
        start = time.process_time()  # other programs disturb it less than the clock
        draw(image, *found, names)
        times[draw].append(time.process_time() - start)
    ours, plain = (1000 * min(seconds) for seconds in times.values())
    table.add("drawing 100 detections, 640 x 480", "ms", ours, plain)


def crowded_detections(shape: tuple) -> tuple:
    """`DRAWN` boxes of 12 to 250 pixels, labels and scores."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(12), np.log(250), (DRAWN, 2)))
    centres = rng.uniform(0, 1, (DRAWN, 2)) * shape
    boxes = np.clip(np.hstack([centres - sides / 2, centres + sides / 2]), 0, np.tile(shape, 2))
    return boxes, rng.integers(1, 81, DRAWN), rng.permutation(DRAWN) / DRAWN


def measure_prediction(table, options) -> None:
    """Pictures per second and CPU time of predict.py, from files to drawings and detections.json, without its start.

    On a busy machine the CPU times say more: the rates depend on how the threads of each side are scheduled.
    """
    coco_folder(options.work)
    files = sorted(glob.glob(os.path.join(glob.escape(options.work), "photos", "train2017", "*.jpg")))[
        : options.pictures
    ]
    size = options.size
    model = random_model(options.work, size)
    inputs = network_inputs(model, files)
    alone, single = runtime_session(model), runtime_session(model, threads=1)
    threshold = score_threshold(alone, inputs[:5])
    predictor = Predictor(model, min_score=threshold)
    rounds = []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for _ in range(ROUNDS):  # in turns: the machine is not equally fast all the time
            _, start_cpu = program(model, files[:1], folder, threshold)
            rate, cpu = program(model, files, folder, threshold)
            cpu = 1000 * (cpu - start_cpu) / (len(files) - 1)
            runtime, _ = network_alone(alone, inputs)
            _, single_cpu = network_alone(single, inputs)
            rounds.append(
                (rate, runtime, plain_rate(predictor, files[: max(len(files) // 5, 1)], folder), cpu, single_cpu)
            )
    ours, runtime, plain, cpu, single_cpu = np.median(rounds, axis=0)
    share = statistics.median(one[0] / one[1] for one in rounds)
    note = f"the runtime alone: {runtime:.1f}; predict.py reaches {share:.2f} of it"
    table.add(f"predict.py, ONNX {size} x {size}, photos", "images/s", ours, plain, note)
    table.add("CPU time per photo; plain: the runtime alone", "ms", cpu, single_cpu, "the runtime in one thread")


def random_model(work: str, size: int) -> str:
    """The path of an ONNX file with random weights, written once."""
    path = os.path.join(work, f"random_{size}.onnx")
    if os.path.exists(path):
        return path
    from src.config import load_config
    from src.inference.detector import build_inference
    from src.inference.exporter import export_network
    from src.inference.metadata import metadata_from_config
    from src.inference.pictures import comparison_pictures
    from src.models.build import build_model
    from src.utils.device import init_device

    config = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_cpu.yaml")
    cfg = load_config([f"--config_path={config}", f"--img_shape=[{size}, {size}]", "--batch_size=1"])
    init_device(cfg)
    images, shapes, _ = comparison_pictures("", cfg.img_shape, 2)
    export_network(build_inference(build_model(cfg), cfg), metadata_from_config(cfg), "ONNX", path, images, shapes)
    return path


def network_inputs(model: str, files: list) -> list:
    """The pictures, decoded and resized."""
    predictor = Predictor(model)
    return [predictor.cut(read_picture(path)) for path in files]


def runtime_session(model: str, threads: int = 0):
    """A session of onnxruntime with its defaults, or with so many threads per call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def score_threshold(session, inputs: list) -> float:
    """The score that `PAIRS_ABOVE` pairs of box and class are above, on average."""
    scores = [np.sort(session.run(["scores"], {"images": image})[0][0, :, 1:].ravel()) for image in inputs]
    return float(np.mean([of_image[-PAIRS_ABOVE] for of_image in scores]))


def network_alone(session, inputs: list) -> tuple:
    """(pictures per second, milliseconds of CPU time per picture) of the network alone."""
    start, cpu = time.perf_counter(), time.process_time()
    for image in inputs:
        session.run(["boxes", "scores"], {"images": image})
    return len(inputs) / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / len(inputs)


def program(model: str, files: list, folder: str, threshold: float) -> tuple:
    """(pictures per second as predict.py prints it, without its start; seconds of CPU time with it)."""
    before = cpu_of_children()
    command = [sys.executable, os.path.join(ROOT, "scripts", "predict.py"), "--model", model, "--output", folder]
    done = subprocess.run([*command, "--min_score", repr(threshold), *files], capture_output=True, text=True)
    seconds = re.search(rf"{len(files)} pictures in ([\d.]+) s", done.stdout)
    if done.returncode or not seconds:
        raise RunError(f"predict.py failed: {done.stderr.strip()[-300:]}")
    return len(files) / max(float(seconds.group(1)), 0.1), cpu_of_children() - before


def cpu_of_children() -> float:
    """Seconds of CPU time of all child processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def plain_rate(predictor, files: list, folder: str) -> float:
    """Pictures per second, one after the other, drawn by the plain drawing."""
    start = time.perf_counter()
    for path in files:
        image = read_picture(path)
        drawn = baselines.draw_detections(image[..., ::-1], *predictor(image), predictor.classes)
        write_picture(os.path.join(folder, "plain_" + os.path.basename(path)), drawn, drawing=True)
    return len(files) / (time.perf_counter() - start)
