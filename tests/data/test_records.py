"""Records are complete and up to date, and the log says why they are written again."""

import os
import socket

import cv2
import numpy as np
import pytest

from src.data.pipeline import TrainLoader, evaluation_batches
from src.data.records import prepare_records
from src.data.transforms import resize
from src.utils.errors import UserError
from tests.helpers.records import IDS, config


def times(folder):
    return {name: os.stat(folder / "records" / name).st_mtime_ns for name in sorted(os.listdir(folder / "records"))}


def test_every_row_comes_back(folder):
    import mindspore.dataset as ds

    records = prepare_records(config(folder), True)
    rows = {}
    dataset = ds.MindDataset(records.files[0], ["img_id", "image", "annotation"], shuffle=False)
    for img_id, image, annotation in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
        rows[int(img_id[0])] = (image.tobytes(), annotation.tolist())
    assert records.count == 5 and sorted(rows) == list(IDS)
    for k, image_id in enumerate(IDS):
        assert rows[image_id][0] == (folder / "coco" / "train2017" / f"{image_id}.jpg").read_bytes()
        assert rows[image_id][1] == [[6, 5, 24, 25 + k, 1]]


def test_kept_until_something_changes(folder):
    prepare_records(config(folder), True)
    first = times(folder)
    prepare_records(config(folder), True)
    assert times(folder) == first
    path = folder / "coco" / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace("[5, 6,", "[4, 6,"))
    prepare_records(config(folder), True)
    assert times(folder) != first


def test_left_overs_are_no_obstacle(folder):
    left_over = folder / "records" / f".writing-{socket.gethostname()}-1"
    os.makedirs(left_over)
    (folder / "records" / "ssd.mindrecord3").write_bytes(b"half")
    (folder / "records" / "ssd.mindrecord0.db").write_bytes(b"")
    assert prepare_records(config(folder), True).count == 5
    assert not left_over.exists()
    os.truncate(folder / "records" / "ssd.mindrecord2", 100)
    assert sorted(prepare_records(config(folder), True).rows) == list(IDS)


def test_missing_and_broken_images(folder):
    os.remove(folder / "coco" / "train2017" / "40.jpg")
    with pytest.raises(UserError, match="1 of 5 images are missing.*40.jpg"):
        prepare_records(config(folder), True)
    (folder / "coco" / "train2017" / "40.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match="40.jpg"):
        prepare_records(config(folder), True)
    assert not (folder / "records").exists()
    assert prepare_records(config(folder, "--max_bad_images=1"), True).count == 4
    assert "40.jpg" in (folder / "records" / "bad_images_train.txt").read_text()


def test_large_ids_come_back(folder):
    path = folder / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(
        path.read_text().replace('"id": 500,', '"id": 5000000000,').replace('_id": 500,', '_id": 5000000000,')
    )
    cfg = config(folder)
    records = prepare_records(cfg, False)
    got = [records.dataset_id(i) for ids, _, _ in evaluation_batches(records, cfg) for i in ids]
    assert sorted(got) == [3, 40, 6000, 70000, 5000000000]


@pytest.mark.parametrize("batch, size", [(1, 1), (2, 1), (7, 1), (2, 2), (1, 3), (2, 8)])
def test_evaluation_sees_every_image_once(folder, batch, size):
    cfg = config(folder, f"--batch_size={batch}")
    records, seen = prepare_records(cfg, False), {}
    for rank in range(size):
        for ids, images, shapes in evaluation_batches(records, cfg, rank, size):
            for img_id, image, shape in zip(ids.tolist(), images, shapes.tolist()):
                assert img_id not in seen
                seen[img_id] = (image, shape)
    assert sorted(seen) == list(IDS)
    source = cv2.imread(str(folder / "coco" / "val2017" / "500.jpg"))[..., ::-1]
    assert np.abs(seen[500][0].astype(int) - resize(source, (128, 128))).max() <= 1
    assert seen[500][1] == [42, 60]


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(folder, cfg256):
    def run(epoch, *more):
        cfg = config(folder, *more)
        data = TrainLoader(prepare_records(cfg, True), cfg)
        return [[part.asnumpy() for part in batch] for batch in data.epoch(epoch)]

    one, again = run(1, "--num_parallel_workers=1"), run(1, "--num_parallel_workers=2")
    assert len(one) == 2 and one[0][0].shape == (2, 128, 128, 3) and one[0][1].shape == (2, 2046, 4)
    for first, second in zip(one, again):
        for a, b in zip(first, second):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0][0], run(2)[0][0])
    assert not np.array_equal(one[0][0], run(1, "--seed=2")[0][0])


def test_shards_are_disjoint_and_equal(folder):
    cfg = config(folder, "--batch_size=1")
    records = prepare_records(cfg, True)
    parts = [TrainLoader(records, cfg, rank, 2).samples(0)[0] for rank in range(2)]
    assert [len(part) for part in parts] == [2, 2] and len(set(parts[0] + parts[1])) == 4


def test_unchanged_records_need_no_reading_of_annotations(folder, monkeypatch):
    from src.data.records import prepare

    cfg = config(folder)
    first = prepare_records(cfg, True)

    def never(*_):
        raise AssertionError("the annotations were read")

    monkeypatch.setattr(prepare, "read_dataset", never)
    again = prepare_records(cfg, True)
    assert (again.count, again.ids, again.files) == (first.count, first.ids, first.files)
    image = folder / "coco" / "train2017" / "3.jpg"
    annotations = folder / "coco" / "annotations" / "instances_train2017.json"
    for change in (
        lambda: os.utime(image, (1, 1)),
        lambda: annotations.write_text(annotations.read_text() + " "),
        lambda: os.remove(folder / "records" / "ssd.mindrecord3"),
    ):
        change()
        with pytest.raises(AssertionError, match="were read"):
            prepare_records(cfg, True)
    with pytest.raises(AssertionError, match="were read"):
        prepare_records(config(folder, "--coco_root=elsewhere"), True)


def test_the_manifest_knows_the_order_of_the_rows(folder):
    import mindspore.dataset as ds

    records = prepare_records(config(folder), True)
    rows = ds.MindDataset(records.files[0], ["img_id"], shuffle=False)
    order = [int(img_id[0]) for (img_id,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=True)]
    assert records.rows.tolist() == order
