"""From a folder to a detector: the stages of scripts/start.py, each an existing program run as a process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import time
from typing import Callable, Dict, List

from src.config.load import CONFIG_FOLDER, ROOT, load_config
from src.start import choose
from src.start.derived import fingerprint, write_part
from src.start.pacing import Pacer, Teller, epochs_done, reserve
from src.start.pictures import Pictures, read_pictures
from src.start.processes import Pace, Stopwatch, run_program, steps_that_fit
from src.start.recognise import recognise
from src.start.settings import BASE_FILE, Settings, recipe
from src.start.split import fewer, split_pictures
from src.training.run_files import list_checkpoints
from src.utils.errors import UserError
from src.utils.output import write_json
from src.utils.text import one_line

LEAST_PICTURES = 10
TIMED_STEPS = 3
_SCHEDULE = ("epoch_size", "warmup_epochs", "save_checkpoint_epochs")


class Start:
    """A start: reads the set, chooses, trains, evaluates and exports within some minutes.

    Args:
        folder: of the set; output: for everything that is written; minutes: for the command.
        dataset: the format, "" for any; group_by, seed: of the split; classes: to train, empty for all.
        say: prints a line.
    """

    def __init__(self, folder: str, output: str, minutes: float, dataset: str, group_by: str, seed: int,
                 classes: List[str], device: str, say: Callable[[str], None] = print):  # fmt: skip
        self.folder, self.output, self.minutes, self.say = os.path.abspath(folder), output, minutes, say
        self.dataset, self.group_by, self.seed, self.only, self.device = dataset, group_by, seed, classes, device
        self.data, self.run_folder = os.path.join(output, "data"), os.path.join(output, "run")
        self.config, self.model = os.path.join(output, "start.yaml"), os.path.join(output, "detector.onnx")
        self._state_file, self._begin = os.path.join(output, "start.json"), time.monotonic()
        self.state: Dict[str, object] = {"spent": 0.0, "done": {}}
        self.workers = os.cpu_count() or 1

    # the time

    def spent(self) -> float:
        """Seconds of this start and of the interrupted ones before it."""
        return float(self.state["spent"]) + time.monotonic() - self._begin

    def left(self) -> float:
        """Seconds that are left of the minutes asked for."""
        return self.minutes * 60 - self.spent()

    def save_state(self) -> None:
        write_json(self._state_file, dict(self.state, spent=round(self.spent(), 1)))

    def _load_state(self) -> None:
        try:
            with open(self._state_file, encoding="utf-8") as handle:
                self.state.update(json.load(handle))
        except (OSError, ValueError, TypeError):
            pass

    # the stages

    def run(self) -> None:
        """Everything, or what is left of it.

        Raises:
            UserError: data that cannot be used, or too little time.
        """
        self._load_state()
        if self.state.pop("complete", False):  # what comes now is for an edited start.yaml
            self.state["spent"] = 0.0
        try:
            data = self._read()
            settings = self._settings(data)
            self._check()
            self._train(settings, data)
            checkpoint = list_checkpoints(os.path.join(self.run_folder, "ckpt_0"))[-1]
            self._stage("evaluate", checkpoint, self._evaluate)
            self._stage("export", checkpoint, self._export)
            self.state["complete"] = True
        except (SystemExit, KeyboardInterrupt):
            self.say("stopped; the same command continues from here")
            raise
        finally:
            self.save_state()
        self._tell_end(checkpoint)

    def _read(self) -> Pictures:
        found = recognise(self.folder, self.dataset)
        self.say(f"format: {found.line}")
        data = read_pictures(found, self.folder, self.only)
        for note in data.notes:
            self.say(f"note: {note}")
        boxed = sum(1 for sample in data.samples if len(sample.boxes))
        if boxed < LEAST_PICTURES:
            raise UserError(
                f"{one_line(self.folder)}: {boxed} pictures with boxes; at least {LEAST_PICTURES} are needed, and 50 "
                f"or more are better: label more pictures"
            )
        boxes = sum(len(sample.boxes) for sample in data.samples)
        absent = f"; without a box, left out: {', '.join(data.absent)[:200]}" if data.absent else ""
        self.say(f"classes: {', '.join(data.classes[1:])[:300]} ({boxes} boxes in {boxed} pictures{absent})")
        now = {"annotations": fingerprint(data.sources), "options": [self.seed, self.group_by, data.classes]}
        before = self.state.setdefault("made_from", now)
        if before != now:
            what = "annotations" if before["annotations"] != now["annotations"] else "--seed, --group_by or --classes"
            raise UserError(
                f"{what} changed since {one_line(self.output)} was made from {one_line(self.folder)}; give another "
                f"--output to start again, or remove that folder"
            )
        return data

    def _split(self, data: Pictures) -> tuple:
        """(train, val), and a line that says how they were made."""
        if "val" in data.parts:
            train, val = data.parts["train"], data.parts["val"]
            has = {label for sample in train for label in sample.boxes[:, 4].tolist()}
            lacking = [name for label, name in enumerate(data.classes) if label > 0 and label not in has]
            if lacking:
                raise UserError(
                    f"class '{lacking[0]}' has no box in the training pictures, only in those of val; move pictures of "
                    f"it to train, or name the other classes with --classes"
                )
            self.say(f"split: the set's own, {len(train)} pictures for train and {len(val)} for val")
            return train, val
        split = split_pictures(data.samples, data.classes, self.seed, self.group_by, self.workers)
        alike = f"; {split.alike} pictures that look like another one stay on its side" if split.alike else ""
        by = f", grouped by {self.group_by}" if self.group_by else ""
        self.say(
            f"split: {len(split.train)} pictures for train and {len(split.val)} for val, by seed {self.seed}{by}{alike}"
        )
        return split.train, split.val

    def _settings(self, data: Pictures) -> Settings:
        """The choices, in the file too; the schedule is fitted by a short measurement unless the file has it."""
        settings = Settings(self.config)
        train, val = self._split(data)
        boxed = [sample for sample in train if len(sample.boxes)]
        settings.add(choose.Choice(self._places(), ""))
        settings.add(choose.Choice({"num_classes": len(data.classes), "classes": data.classes}, ""))
        network, has_weights = choose.choose_network(os.path.join(ROOT, "ckpt"))
        settings.add(network)
        facts = choose.facts_of(boxed, self.minutes, self.device)
        batch = choose.choose_batch(facts)
        settings.add(batch)
        settings.add(recipe())
        rates = choose.choose_rate(settings.values["batch_size"], has_weights)
        settings.add(rates)
        if settings.has("img_shape", *_SCHEDULE):
            size = choose.Choice({"img_shape": settings.given["img_shape"]}, "given")
            settings.add(size)
        else:
            size = choose.choose_size(facts, settings.values["batch_size"])
        base = os.path.join(CONFIG_FOLDER, BASE_FILE)
        shape = settings.given.get("img_shape", size.values["img_shape"])
        anchors = choose.choose_anchors(facts, shape, base)
        if not settings.has(*_SCHEDULE):
            write_part(self.data, "val", val, data, self.folder)
            size, anchors = self._fit(settings, data, facts, size, anchors, boxed)
        else:
            total = settings.given["epoch_size"] * max(len(boxed) // settings.values["batch_size"], 1)
            for choice in choose.choose_schedule(len(boxed), settings.values["batch_size"], total)[0]:
                settings.add(choice)
        if not os.path.isfile(os.path.join(self.data, "instances_train.json")):
            write_part(self.data, "val", val, data, self.folder)
            write_part(self.data, "train", boxed, data, self.folder)
        if "img_shape" not in settings.values:
            settings.add(size)
        settings.add(anchors)
        settings.save()
        load_config([f"--config_path={self.config}"])  # names what an edit has spoilt
        for line in settings.lines:
            self.say(f"chosen: {line}")
        self.say(f"choices: {self.config} (edit it and give the same command again)")
        return settings

    def _places(self) -> Dict[str, object]:
        places = {"dataset": "coco", "data_path": self.data, "coco_root": self.data, "train_data_type": "train"}
        places.update(val_data_type="val", instances_set="instances_{}.json", device_target=self.device)
        places.update(mindrecord_dir=os.path.join(self.output, "records"), output_path=self.run_folder)
        return dict(places, loss_scale=1 if self.device == "CPU" else 1024, seed=self.seed, keep_checkpoint_max=2)

    def _fit(self, settings: Settings, data: Pictures, facts, size, anchors, boxed: List) -> tuple:
        """Measure a step, add the schedule that fits, write the training annotations; (size, anchors) as used."""
        batch = settings.values["batch_size"]
        while True:
            pace = self._measure(settings, size, data, boxed, batch)
            steps = steps_that_fit(
                self.left() - reserve(pace, batch, self._number_of("val")), pace, len(boxed) // batch
            )
            short = min(size.values["img_shape"])
            if steps >= choose.ENOUGH_STEPS // 2 or short == choose.SIDES[0] or "img_shape" in settings.given:
                break
            if self.left() < 0.5 * self.minutes * 60:
                break
            size = choose.choose_size(facts, batch, choose.SIDES[choose.SIDES.index(short) - 1])
            anchors = choose.choose_anchors(facts, size.values["img_shape"], os.path.join(CONFIG_FOLDER, BASE_FILE))
        if steps < choose.LEAST_STEPS:
            needed = self.minutes + (choose.ENOUGH_STEPS - steps) * pace.step / 60
            raise UserError(
                f"--minutes {self.minutes:g}: {steps} steps of {pace.step:.2f} s fit into the time, too few to learn "
                f"anything; give --minutes {needed:.0f} or more"
            )
        schedule, used = choose.choose_schedule(len(boxed), batch, steps)
        for choice in schedule:
            settings.add(choice)
        self.state["pace"] = list(pace)
        self.state["fitted"] = settings.values["epoch_size"] if "epoch_size" not in settings.given else None
        write_part(self.data, "train", fewer(boxed, used, self.seed) if used < len(boxed) else boxed, data, self.folder)
        return size, anchors

    def _number_of(self, part: str) -> int:
        """Pictures of train or val, as written."""
        with open(os.path.join(self.data, f"instances_{part}.json"), encoding="utf-8") as handle:
            return len(json.load(handle)["images"])

    def _measure(self, settings: Settings, size, data: Pictures, boxed: List, batch: int) -> Pace:
        """The times of a training with these choices, from one that is stopped after some steps."""
        steps = max(min(TIMED_STEPS, len(boxed) // batch), 1)
        folder = os.path.join(self.output, "timing")
        shutil.rmtree(folder, ignore_errors=True)
        write_part(os.path.join(folder, "data"), "train", boxed[: steps * batch], data, self.folder)
        trial = Settings(os.path.join(folder, "timing.yaml"))
        places = dict(settings.values, coco_root=os.path.join(folder, "data"), epoch_size=1000, warmup_epochs=1)
        places.update(mindrecord_dir=os.path.join(folder, "records"), output_path=os.path.join(folder, "run"))
        places.setdefault("img_shape", size.values["img_shape"])
        trial.add(choose.Choice(dict(places, save_checkpoint_epochs=1000, ema_decay=0.99), "measurement only"))
        trial.save()
        watch = Stopwatch(steps, min(20.0, 0.04 * self.minutes * 60))
        self._program("measure", ["train.py", "--config_path", trial.path, "--compile_cache=False"], watch.watch)
        shutil.rmtree(folder, ignore_errors=True)
        pace = watch.pace()
        self.say(
            f"measured: {pace.step:.2f} s for a step at {'x'.join(map(str, places['img_shape']))}, "
            f"{pace.start:.0f} s until the first one"
        )
        return pace

    def _program(self, what: str, words: List[str], watch: Callable[[str], bool] = lambda line: False) -> str:
        begin = time.monotonic()
        try:
            return run_program(what, words, os.path.join(self.output, "log", f"{what}.txt"), watch)
        finally:
            times = self.state.setdefault("seconds", {})
            times[what] = round(times.get(what, 0) + time.monotonic() - begin, 1)

    def _config_words(self, program: str, *more: str) -> List[str]:
        return [program, "--config_path", self.config, *more]

    def _check(self) -> None:
        """check_data.py, which decodes every picture, unless it has passed before."""
        report, log = os.path.join(self.output, "check.json"), os.path.join(self.output, "log", "check.txt")
        key = self._key("")
        if self.state["done"].get("check") == key:
            return
        with contextlib.suppress(FileNotFoundError):
            os.remove(report)
        try:
            self._program("check", self._config_words("scripts/check_data.py", "--decode", "--json", report))
        except UserError:
            refused = [fault for fault in _faults(report) if fault["refused"]]
            if not refused:
                raise
            first = refused[0]
            raise UserError(
                f"the data cannot be used: {first['number']} {first['kind']}: {', '.join(first['places'][:3])}; "
                f"correct them, and give the same command again (all problems: {log})"
            ) from None
        warnings = _faults(report)
        kinds = f"{len(warnings)} kinds of warnings: " + "; ".join(f"{w['number']} {w['kind']}" for w in warnings[:4])
        self.say(f"checked: {kinds if warnings else 'no problems'} ({log})")
        self.state["done"]["check"] = key

    def _key(self, more: str) -> str:
        """What the result of a stage depends on."""
        with open(self.config, "rb") as handle:
            return hashlib.sha256(handle.read() + more.encode()).hexdigest()[:16]

    def _stage(self, name: str, of: str, action: Callable[[str], None]) -> None:
        key = self._key(of)
        if self.state["done"].get(name) != key:
            action(of)
            self.state["done"][name], self.state["minutes"] = key, round(self.spent() / 60, 1)
            self.save_state()

    # training

    def _train(self, settings: Settings, data: Pictures) -> None:
        """Train to the end of the schedule; it is changed on the way where the machine turns out faster or slower."""
        key = self._key("")
        if self.state["done"].get("train") == key:
            self.say("trained already")
            return
        resumes = bool(list_checkpoints(os.path.join(self.run_folder, "ckpt_0")))
        if resumes and self.state.get("training") != key:
            self.say("start.yaml was edited: the training starts again (the earlier one is kept in run/ckpt_0.*)")
            resumes, self.state["spent"], self._begin = False, 0.0, time.monotonic()
        pace = Pace(*self.state["pace"]) if self.state.get("pace") else None
        is_fitted = pace is not None and self.state.get("fitted") == settings.values["epoch_size"]
        per_epoch = max(self._number_of("train") // settings.values["batch_size"], 1)
        after = reserve(pace, settings.values["batch_size"], self._number_of("val")) if is_fitted else 0.0
        control = Pacer(lambda: self.left() - after, self.minutes * 60, pace, per_epoch) if is_fitted else None
        if resumes and control is not None:
            epochs = epochs_done(os.path.join(self.run_folder, "ckpt_0"), per_epoch)
            self._change(settings, control.epochs_for(epochs, pace), resumed=True)
        while True:
            self.state["training"] = self._key("")
            self.save_state()
            words = self._config_words("train.py", *(["--resume=auto"] if resumes else []))
            teller = Teller(self.say)
            self.say(f"training: {settings.values['epoch_size']} epochs of {per_epoch} steps")
            self._program("train", words, lambda line: teller.tell(line) or bool(control and control.watch(line)))
            if control is None or control.epochs is None:
                break
            self._change(settings, control.epochs)
            control.epochs, resumes = None, True
        self.state["done"]["train"] = self._key("")
        self.save_state()

    def _change(self, settings: Settings, epochs: int, resumed: bool = False) -> None:
        """Another number of epochs, which is written into start.yaml."""
        if epochs == settings.values["epoch_size"]:
            return
        why = "the remaining time" if resumed else "the machine's speed"
        self.say(f"schedule: {epochs} epochs in place of {settings.values['epoch_size']}, by {why}")
        settings.replace({"epoch_size": epochs})
        self.state["fitted"] = epochs

    # after the training

    def _evaluate(self, checkpoint: str) -> None:
        output = self._program("evaluate", self._config_words("eval.py", "--checkpoint_file_path", checkpoint))
        found = re.search(r"^mAP: (\S+)", output, re.M)
        ap50 = next((line.split()[5] for line in output.splitlines() if line.startswith("AP50 ")), "-")
        self.state["result"] = f"mAP {found.group(1) if found else '-'}, AP50 {ap50}"

    def _export(self, checkpoint: str) -> None:
        words = ["--checkpoint_file_path", checkpoint, "--file_name", self.model[: -len(".onnx")]]
        words += ["--file_format", "ONNX", "--batch_size", "1"]
        self._program("export", self._config_words("export.py", *words))

    def _tell_end(self, checkpoint: str) -> None:
        predict = ["python3", os.path.join(ROOT, "scripts", "predict.py"), "--model", self.model]
        self.say(
            f"result: {self.state.get('result', '')} on the pictures of val, after {self.state['minutes']} minutes"
        )
        self.say(f"report: {os.path.join(self.run_folder, 'report.html')}")
        self.say(f"model: {self.model} (checkpoint: {checkpoint})")
        detections = ["--output", os.path.join(self.output, "detections")]
        self.say(f"new pictures: {shlex.join([*predict, *detections])} NEW_PICTURES")


def _faults(path: str) -> List[dict]:
    try:
        with open(path, encoding="utf-8") as handle:
            return [fault for report in json.load(handle).values() for fault in report["faults"]]
    except (OSError, ValueError):
        return []
