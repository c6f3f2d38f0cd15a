"""The split: pictures that look the same, groups, and classes on both sides."""

import os
import re

import cv2
import numpy as np

from src.data.sample import Sample, boxes_array
from src.start.split import fewer, split_pictures
from tests.helpers.lines import line_of


def photo(seed, size=96):
    """A smooth picture that no other seed's resembles."""
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def samples_of(folder, images, labels=(1,)):
    """Samples of pictures that are written into a folder; the labels are given in turn."""
    samples = []
    for number, (name, image) in enumerate(images.items()):
        os.makedirs(os.path.dirname(folder / name), exist_ok=True)
        cv2.imwrite(str(folder / name), image)
        boxes = boxes_array([(5, 5, 40, 40, labels[number % len(labels)])])
        samples.append(Sample(number, str(folder / name), boxes, image.shape[1], image.shape[0], name))
    return samples


def test_no_picture_and_its_near_copy_on_both_sides(tmp_path):
    images = {f"{number:02d}.png": photo(number) for number in range(20)}
    for number in range(8):
        image = photo(number)
        changed = [image, image[:, ::-1], cv2.resize(image, (140, 140)), np.clip(image * 0.8 + 40, 0, 255)][number % 4]
        images[f"copy{number:02d}.png"] = changed.astype(np.uint8)
    samples = samples_of(tmp_path, images)
    for seed in range(6):
        split = split_pictures(samples, ["background", "cat"], seed, "", 2)
        assert split.alike == 16 and len(split.train) + len(split.val) == 28 and 4 <= len(split.val) <= 6
        sides = [{os.path.basename(sample.path)[-6:-4] for sample in side} for side in (split.train, split.val)]
        assert not sides[0] & sides[1]
    again = split_pictures(samples, ["background", "cat"], 3, "", 2)
    assert [s.path for s in again.val] == [s.path for s in split_pictures(samples, ["b", "cat"], 3, "", 2).val]


def test_groups_that_are_asked_for(tmp_path):
    names = [f"{folder}/shop{shop}_{number}.png" for folder in "abcd" for shop in (1, 2) for number in range(4)]
    samples = samples_of(tmp_path, {name: photo(number) for number, name in enumerate(names)})
    for group_by, key in (("folder", r"/(\w)/shop"), (r"(shop\d)_", r"(shop\d)_"), (r"\w/shop\d", r"(\w/shop\d)")):
        classes = ["background", "cat"]
        split = split_pictures(samples, classes, 1, group_by, 2)
        groups = [{re.search(key, sample.path).group(1) for sample in side} for side in (split.train, split.val)]
        assert not groups[0] & groups[1] and all(groups)
    line_of(lambda: split_pictures(samples, classes, 1, "(", 2), "--group_by", "regular expression")
    line_of(lambda: split_pictures(samples, classes, 1, "nothing", 2), "--group_by nothing", "no two groups")
    line_of(lambda: split_pictures(samples[:4], classes, 1, "folder", 2), "in one folder")


def test_every_class_is_on_both_sides(tmp_path):
    """Also one with boxes in 2 of 40 pictures; a class in one picture only is refused."""
    samples = samples_of(tmp_path, {f"{number}.png": photo(number) for number in range(40)})
    for number in (3, 17):
        samples[number].boxes[:, 4] = 2
    for seed in range(5):
        split = split_pictures(samples, ["background", "cat", "dog"], seed, "", 2)
        assert len(split.val) == 8
        for side in (split.train, split.val):
            assert {label for sample in side for label in sample.boxes[:, 4].tolist()} == {1, 2}
    samples[3].boxes[:, 4] = 1
    line_of(lambda: split_pictures(samples, ["background", "cat", "dog"], 1, "", 2), "'dog'", "label more", "--classes")
    samples[3].boxes[:, 4] = 2
    few = fewer(samples, 10, 1)
    assert len(few) == 10 and any(sample.boxes[0, 4] == 2 for sample in few)
