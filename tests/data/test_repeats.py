"""Repeat factors of rare classes: the formula class by class, the law of the draw, and batches of a set."""

import math
from collections import Counter

import numpy as np
import pytest

from src.data.pipeline import TrainLoader
from src.data.records import prepare_records
from src.data.repeats import draw_epoch, epoch_length, repeat_factors
from tests.helpers.records import IDS, config, instances

UNIT = 2.0**-20


def test_formula_by_hand():
    """Class 1 in 4 of 5 images, class 2 in 1, class 3 in 2: with t = 0.5 the factors 1, sqrt(2.5), sqrt(1.25)."""
    labels = [np.array(of_image, np.int32) for of_image in ([1, 1, 1], [1, 2], [1, 3, 3], [0, 3], [1])]
    want = [1, math.sqrt(0.5 / 0.2), math.sqrt(0.5 / 0.4), math.sqrt(0.5 / 0.4), 1]
    np.testing.assert_allclose(repeat_factors(labels, 0.5), want, atol=UNIT)
    none = [np.zeros(0, np.int32), np.array([0], np.int32), np.array([2], np.int32)]
    np.testing.assert_allclose(repeat_factors(none, 0.9), [1, 1, math.sqrt(2.7)], atol=UNIT)
    assert repeat_factors(none[:2], 0.9).tolist() == [1, 1]


def random_factors(count=57):
    rng = np.random.default_rng(1)
    labels = [rng.choice(20, rng.integers(0, 4), p=np.arange(20, 0, -1) / 210) + 1 for _ in range(count)]
    return repeat_factors(labels, 0.3), labels


def test_formula_in_a_slow_loop():
    factors, labels = random_factors()
    for factor, of_image in zip(factors, labels):
        shares = [sum(label in other for other in labels) / len(labels) for label in of_image]
        want = max([max(1.0, math.sqrt(0.3 / share)) for share in shares], default=1.0)
        assert factor == pytest.approx(want, abs=UNIT)


def test_every_epoch_has_the_length_and_the_mean_is_the_factor():
    factors, _ = random_factors()
    length, total, draws = epoch_length(factors), np.zeros(len(factors)), 3000
    assert length == math.floor(sum(factors)) > len(factors)
    orders = set()
    for epoch in range(draws):
        images, copies = draw_epoch(factors, np.random.default_rng([5, epoch]))
        assert len(images) in (length, length + 1)
        counts = np.bincount(images, minlength=len(factors))
        assert (counts >= np.floor(factors)).all() and (counts <= np.ceil(factors)).all()
        orders.add(tuple(images[:5].tolist()))
        total += counts
        if epoch < 20:
            for image, count in enumerate(counts):
                assert sorted(copies[images == image].tolist()) == list(range(count))
    # the standard deviation of a mean of 3000 draws of 0 or 1 is below 0.0092
    np.testing.assert_allclose(total / draws, factors, atol=0.04)
    assert len(orders) > draws - 10


def test_factors_of_one_are_a_permutation():
    images, copies = draw_epoch(np.ones(30), np.random.default_rng(0))
    assert sorted(images.tolist()) == list(range(30)) and not copies.any()


@pytest.fixture
def rare(folder):
    """The small set with a second class in one of its five images."""

    def change(content):
        content["categories"].append({"id": 2, "name": "cat"})
        content["annotations"][0]["category_id"] = 2

    instances(folder, "train2017", change)
    return folder


def of_rare(folder, *more):
    classes = ("--num_classes=3", "--classes=['background', 'person', 'cat']", "--repeat_threshold=0.9")
    return config(folder, *classes, *more)


def test_batches_of_a_set(rare):
    """Class "cat" is in 1 of 5 images: sqrt(0.9 / 0.2) = 2.12 times; "person" in 4 of 5: sqrt(0.9 / 0.8) = 1.06."""
    cfg = of_rare(rare, "--batch_size=1")
    records = prepare_records(cfg, True)
    data = TrainLoader(records, cfg)
    want = [math.sqrt(0.9 / 0.2)] + [math.sqrt(0.9 / 0.8)] * 4
    np.testing.assert_allclose(data.factors, want, atol=UNIT)
    assert data.steps == math.floor(sum(want)) == 6
    epochs = [[(int(ids[0, 0]), images[0]) for images, _, ids in data.numpy_batches(epoch)] for epoch in range(4)]
    for number, epoch in enumerate(epochs):
        assert [img_id for img_id, _ in epoch] == records.rows[data.samples(number)[0]].tolist()
    again = list(data.numpy_batches(3))
    for (img_id, image), (images, _, ids) in zip(epochs[3], again):
        assert img_id == ids[0, 0] and np.array_equal(image, images[0])
    for epoch in epochs:
        assert len(epoch) == 6 and Counter(img_id for img_id, _ in epoch)[IDS[0]] in (1, 2, 3)
        cats = [image for img_id, image in epoch if img_id == IDS[0]]
        assert all(not np.array_equal(cats[0], other) for other in cats[1:])  # copies are augmented differently
    assert sum(len([1 for img_id, _ in epoch if img_id == IDS[0]]) for epoch in epochs) >= 7
    # a resumed epoch goes on with the same samples
    rest = list(data.numpy_batches(2, 4))
    assert len(rest) == 2
    for (img_id, image), (images, _, ids) in zip(epochs[2][4:], rest):
        assert img_id == ids[0, 0] and np.array_equal(image, images[0])


def test_ranks_share_an_epoch(rare):
    cfg = of_rare(rare, "--batch_size=1")
    records = prepare_records(cfg, True)
    one = TrainLoader(records, cfg)
    ranks = [TrainLoader(records, cfg, rank, 3) for rank in range(3)]
    assert [data.steps for data in ranks] == [2, 2, 2]
    for epoch in range(5):
        rows, copies = one.samples(epoch)
        parts = [data.samples(epoch) for data in ranks]
        for rank, (of_rank, numbers) in enumerate(parts):
            assert of_rank == rows[rank::3] and numbers == copies[rank::3] and len(of_rank) == 2


def test_off_is_the_published_order(folder):
    cfg = config(folder)
    records = prepare_records(cfg, True)
    data = TrainLoader(records, cfg)
    order = np.argsort(records.rows, kind="stable")
    assert data.factors is None and data.steps == 2
    want = order[np.random.default_rng([cfg.seed, 3]).permutation(5)][:4]
    assert data.samples(3) == (want.tolist(), [0] * 4)
