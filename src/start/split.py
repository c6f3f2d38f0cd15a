"""The split into train and val: pictures that look the same, or belong to one group, stay on one side."""

from __future__ import annotations

import os
import re
from typing import Dict, List, NamedTuple, Sequence, Set

import numpy as np

from src.data.inspect.copies import same_content
from src.data.inspect.near_copies import near_pairs_within, thumbnails
from src.data.sample import Sample
from src.utils.errors import UserError

VAL_SHARE, MOST_VAL = 0.2, 1000


class Split(NamedTuple):
    """`train` and `val`, and `alike`: the number of pictures that are alike to another one."""

    train: List[Sample]
    val: List[Sample]
    alike: int


def split_pictures(samples: Sequence[Sample], classes: Sequence[str], seed: int, group_by: str, workers: int) -> Split:
    """Split by a seed; every class has boxes on both sides.

    Args:
        classes: with the background.
        group_by: "" or "folder", or a regular expression: pictures whose paths give the same first group (or, without
            one, the same match) stay together.

    Raises:
        UserError: a class has all its boxes in one picture or group, or `group_by` fits no picture.
    """
    joined = _Joined(len(samples))
    position = {sample.path: index for index, sample in enumerate(samples)}
    for paths in same_content(list(position), workers):
        for path in paths[1:]:
            joined.join(position[paths[0]], position[path])
    for one, other in near_pairs_within(thumbnails(samples, workers)):
        joined.join(one, other)
    alike = sum(len(group) for group in joined.groups() if len(group) > 1)
    for group in _asked_groups(samples, group_by):
        for index in group[1:]:
            joined.join(group[0], index)
    groups = joined.groups()
    val = _choose_val(samples, groups, classes, seed)
    train = [sample for index, sample in enumerate(samples) if index not in val]
    return Split(train, [samples[index] for index in sorted(val)], alike)


class _Joined:
    """Sets of indices that are joined pair by pair."""

    def __init__(self, number: int):
        self._parent = list(range(number))

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def join(self, one: int, other: int) -> None:
        self._parent[self._root(other)] = self._root(one)

    def groups(self) -> List[List[int]]:
        found: Dict[int, List[int]] = {}
        for index in range(len(self._parent)):
            found.setdefault(self._root(index), []).append(index)
        return list(found.values())


def _asked_groups(samples: Sequence[Sample], group_by: str) -> List[List[int]]:
    if not group_by:
        return []
    if group_by == "folder":
        keys = [os.path.dirname(sample.path) for sample in samples]
        if len(set(keys)) < 2:
            raise UserError(f"--group_by folder: all {len(samples)} pictures are in one folder; leave the option out")
    else:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise UserError(f"--group_by: not a regular expression, nor 'folder': {error}") from None
        matches = [pattern.search(sample.path.replace(os.sep, "/")) for sample in samples]
        keys = [match and match.group(1 if pattern.groups else 0) for match in matches]
        if len(set(keys) - {None}) < 2:
            raise UserError(f"--group_by {group_by}: gives no two groups of pictures; first path: {samples[0].path}")
    groups: Dict[str, List[int]] = {}
    for index, key in enumerate(keys):
        if key is not None:
            groups.setdefault(key, []).append(index)
    return list(groups.values())


def _choose_val(samples: Sequence[Sample], groups: List[List[int]], classes: Sequence[str], seed: int) -> Set[int]:
    """Indices of the pictures of val: first a group for each class, the rarest first, then any that fit."""
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    has = [{label for index in group for label in samples[index].boxes[:, 4].tolist()} for group in groups]
    left = {label: sum(label in labels for labels in has) for label in range(1, len(classes))}
    for label, number in left.items():
        if number < 2:
            raise UserError(
                f"class '{classes[label]}' has boxes in one picture (or group of pictures that are alike) only, so it "
                f"cannot be learned and evaluated; label more pictures of it, or name the other classes with --classes"
            )
    wanted = min(max(round(len(samples) * VAL_SHARE), 1), MOST_VAL)
    chosen: Set[int] = set()
    count = 0

    def take(position: int) -> None:
        nonlocal count
        chosen.add(position)
        count += len(groups[position])
        for label in has[position]:
            left[label] -= 1

    def may_go(position: int) -> bool:
        return position not in chosen and all(left[label] > 1 for label in has[position])

    for label in sorted(left, key=lambda label: left[label]):
        if not any(label in has[position] for position in chosen):
            free = [position for position in order if label in has[position] and may_go(position)]
            if not free:
                raise UserError(
                    f"class '{classes[label]}' cannot be in train and in val: its pictures hold other classes that "
                    f"occur nowhere else; label more pictures, or name the classes with --classes"
                )
            take(min(free, key=lambda position: len(groups[position])))
    for position in order:
        if count + len(groups[position]) <= wanted and may_go(position):
            take(position)
    return {index for position in chosen for index in groups[position]}


def fewer(samples: Sequence[Sample], number: int, seed: int) -> List[Sample]:
    """`number` of the samples by a seed, with pictures of every class: the rarest classes are served first."""
    order = [samples[index] for index in np.random.default_rng(seed).permutation(len(samples))]
    labels = [set(sample.boxes[:, 4].tolist()) for sample in order]
    counts = {label: sum(label in of_one for of_one in labels) for of_one in labels for label in of_one}
    share, kept = max(number // (2 * max(len(counts), 1)), 1), {}
    for label in sorted(counts, key=lambda label: counts[label]):
        having = sum(label in labels[index] for index in kept)
        for index, of_one in enumerate(labels):
            if having >= share or len(kept) >= number:
                break
            if label in of_one and index not in kept:
                kept[index] = None
                having += 1
    others = [index for index in range(len(order)) if index not in kept][: number - len(kept)]
    return [order[index] for index in sorted([*kept, *others])]
