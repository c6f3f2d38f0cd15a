"""src/data/tiles.py and records of tiles, against slow definitions and by hand."""

import json
import os

import cv2
import numpy as np
import pytest

from src.data.images import decode_rgb
from src.data.pipeline import TrainLoader, evaluation_batches, evaluation_tiles
from src.data.records import prepare_records
from src.data.tiles import Tiling, cut_boxes, network_tiles
from src.data.transforms import resize
from tests.helpers.configuration import notes, refusal
from tests.helpers.records import config, instances, rows_of, write_coco_set


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("side", [32, 50, 97])
@pytest.mark.parametrize("height, width", [(97, 200), (32, 33), (31, 500), (10, 10), (150, 64)])
def test_tiles_cover_the_picture_in_full_size(height, width, side, overlap):
    windows = Tiling(side, overlap).windows(height, width)
    covered = np.zeros((height, width), bool)
    for top, left, bottom, right in windows.tolist():
        assert 0 <= top < bottom <= height and 0 <= left < right <= width
        assert (bottom - top, right - left) == (min(side, height), min(side, width))
        covered[top:bottom, left:right] = True
    assert covered.all() and len(np.unique(windows, axis=0)) == len(windows)
    assert windows.tolist() == sorted(windows.tolist())  # row by row
    for low, high, length in ((0, 2, height), (1, 3, width)):
        spans = np.unique(windows[:, [low, high]], axis=0)
        shared = spans[:-1, 1] - spans[1:, 0]
        assert (shared >= int(round(side * overlap))).all()
        # no more tiles than this overlap needs
        if length > side:
            step = side - int(round(side * overlap))
            assert len(spans) == 1 + -(-(length - side) // step)


def test_no_tiles_and_tiles_by_hand():
    assert Tiling().windows(70, 90).tolist() == [[0, 0, 70, 90]]
    assert Tiling(100, 0.2).windows(70, 90).tolist() == [[0, 0, 70, 90]]
    assert Tiling(100, 0.2).windows(100, 240).tolist() == [[0, 0, 100, 100], [0, 80, 100, 180], [0, 140, 100, 240]]
    assert Tiling(60, 0.0).windows(100, 60).tolist() == [[0, 0, 60, 60], [40, 0, 100, 60]]


def test_network_tiles_are_those_parts_of_the_picture():
    image = np.random.default_rng(0).integers(0, 255, (75, 120, 3)).astype(np.uint8)
    for tiling in (Tiling(50, 0.2), Tiling(200, 0.2), Tiling()):
        tiles, windows = network_tiles(image, tiling, [32, 40]), tiling.windows(75, 120)
        assert len(tiles) == len(windows)
        for tile, (top, left, bottom, right) in zip(tiles, windows):
            part = np.ascontiguousarray(image[top:bottom, left:right])
            np.testing.assert_array_equal(tile, resize(part, (32, 40)))
    np.testing.assert_array_equal(network_tiles(image, Tiling(), [32, 40])[0], resize(image, (32, 40)))


def test_boxes_are_cut_by_area_or_centre():
    window = [100, 200, 200, 300]
    boxes = [
        [110, 210, 120, 220, 1],  # inside
        [90, 210, 110, 220, 2],  # half of it
        [89, 210, 110, 220, 3],  # less than half, and the centre outside
        [50, 150, 250, 350, 4],  # a quarter, but the centre
        [150, 290, 160, 310, 5],  # half; the centre lies on the right edge
        [150, 291, 160, 311, 6],  # less
        [190, 290, 210, 310, 7],  # a quarter; the centre lies on the corner
        [0, 0, 50, 50, 8],  # elsewhere
    ]
    assert cut_boxes(np.array(boxes, np.int32), window).tolist() == [
        [10, 10, 20, 20, 1],
        [0, 10, 10, 20, 2],
        [0, 0, 100, 100, 4],
        [50, 90, 60, 100, 5],
    ]
    assert cut_boxes(np.zeros((0, 5), np.int32), window).shape == (0, 5)


def test_boxes_are_cut_as_pixels_say():
    """Against counting pixels; each box is in some tile, and has an area in each."""
    rng, tiling = np.random.default_rng(1), Tiling(40, 0.25)
    for _ in range(20):
        corners = np.sort(rng.integers(0, 100, (30, 2, 2)), axis=1)
        boxes = np.column_stack([corners[:, 0], corners[:, 1] + 1, np.arange(30)]).astype(np.int32)
        found = set()
        for top, left, bottom, right in tiling.windows(101, 101).tolist():
            mask = np.zeros((101, 101), bool)
            mask[top:bottom, left:right] = True
            expected = []
            for y1, x1, y2, x2, label in boxes.tolist():
                y, x = (y1 + y2) / 2, (x1 + x2) / 2
                inside = mask[y1:y2, x1:x2]
                if 2 * inside.sum() >= inside.size or top <= y < bottom and left <= x < right:
                    ys, xs = np.nonzero(inside)
                    box = [ys.min() + y1, xs.min() + x1, ys.max() + y1 + 1, xs.max() + x1 + 1]
                    expected.append([*(np.array(box) - [top, left, top, left]).tolist(), label])
                    found.add(label)
            assert cut_boxes(boxes, (top, left, bottom, right)).tolist() == expected
        assert len(found) == 30


def test_values_of_the_keys():
    assert "tile must be 0 (off) or lie in [32, 16384], got 8" in refusal("--tile=8")
    assert "overlap must lie in [0, 0.9], got 1" in refusal("--overlap=1")
    assert "overlap has no effect without tile" in notes("--overlap=0.5")


@pytest.fixture
def folder(tmp_path):
    """Pictures of 40 to 44 x 60 pixels with a box each."""
    write_coco_set(tmp_path)
    return tmp_path


def test_records_of_tiles(folder):
    """Pixels without loss, boxes cut, tiles without boxes left out, ids that are the same again."""
    records = prepare_records(config(folder, "--tile=32", "--overlap=0.25"), True)
    rows, expected = rows_of(records), {}
    for k, image_id in enumerate((3, 40, 500, 6000, 70000)):
        picture = decode_rgb((folder / "coco" / "train2017" / f"{image_id}.jpg").read_bytes())
        for window in Tiling(32, 0.25).windows(*picture.shape[:2]).tolist():
            boxes = cut_boxes(np.array([[6, 5, 24, 25 + k, 1]], np.int32), window)
            if len(boxes):
                top, left, bottom, right = window
                expected[f"{image_id}@{left},{top}"] = picture[top:bottom, left:right], boxes.tolist()
    got = {records.dataset_id(row): (decode_rgb(content), boxes) for row, (content, boxes) in rows.items()}
    assert got.keys() == expected.keys() and 5 < len(got) < 5 * 6  # some have no box
    for name, (pixels, boxes) in expected.items():
        np.testing.assert_array_equal(got[name][0], pixels)
        assert got[name][1] == boxes
    ids = sorted(records.rows.tolist())
    assert ids == list(range(len(got)))
    # written by other threads, elsewhere
    again = prepare_records(
        config(folder, "--tile=32", "--overlap=0.25", "--num_parallel_workers=1", "--mindrecord_dir=other"), True
    )
    assert {row: again.dataset_id(row) for row in ids} == {row: records.dataset_id(row) for row in ids}


def test_a_change_of_the_keys_is_noticed(folder):
    whole = prepare_records(config(folder), True)
    seen = {whole.files[0]: rows_of(whole)}
    assert whole.count == 5 and all(content.startswith(b"\xff\xd8") for content, _ in rows_of(whole).values())
    for options in (["--tile=32"], ["--tile=36"], ["--tile=32", "--overlap=0.5"]):
        records = prepare_records(config(folder, *options), True)
        assert records.files[0] not in seen  # none replaces another's
        seen[records.files[0]] = rows_of(records)
    assert len({str(rows) for rows in seen.values()}) == 4
    assert prepare_records(config(folder), True).files == whole.files
    # evaluation puts tiles together: one set of pictures
    evaluation = prepare_records(config(folder), False)
    assert prepare_records(config(folder, "--tile=32"), False).files == evaluation.files


def test_training_reads_tiles(folder):
    cfg = config(folder, "--tile=32", "--batch_size=3")
    records = prepare_records(cfg, True)
    loader = TrainLoader(records, cfg)
    assert loader.steps == records.count // 3
    ids = [int(img_id) for _, _, ids in loader.numpy_batches(0) for img_id in ids.ravel()]
    assert len(set(ids)) == len(ids) == 3 * loader.steps


def test_pictures_without_boxes_are_left_out(folder):
    instances(folder, "train2017", lambda content: content["annotations"].pop())
    names = {records_id.split("@")[0] for records_id in _ids(prepare_records(config(folder, "--tile=32"), True))}
    assert names == {"3", "40", "500", "6000"}


def test_tiles_without_boxes_are_negatives(folder):
    records = prepare_records(config(folder, "--tile=32", "--negative_images=True"), True)
    with open(folder / "coco" / "annotations" / "instances_train2017.json", encoding="utf-8") as handle:
        images = json.load(handle)["images"]
    tiles = [(image["id"], window) for image in images for window in windows_of(image)]
    assert records.count == len(tiles) > prepare_records(config(folder, "--tile=32"), True).count


def windows_of(image):
    return Tiling(32, 0.2).windows(image["height"], image["width"]).tolist()


def _ids(records):
    return [records.dataset_id(row) for row in records.rows.tolist()]


@pytest.mark.parametrize("size", [1, 3])
def test_evaluation_sees_all_tiles_of_every_image(folder, size):
    cfg = config(folder, "--tile=32", "--overlap=0.5")
    records, tiling = prepare_records(cfg, False), Tiling(32, 0.5)
    for rank in range(size):
        ids = [row for ids, _, _ in evaluation_batches(records, cfg, rank, size) for row in ids.tolist()]
        cut = list(evaluation_tiles(records, cfg, rank, size))
        assert [img_id for img_id, _, _ in cut] == ids
        for img_id, tiles, shape in cut:
            picture = cv2.imread(str(folder / "coco" / "val2017" / f"{img_id}.jpg"))[..., ::-1]
            assert tuple(shape) == picture.shape[:2]
            np.testing.assert_array_equal(tiles, network_tiles(picture, tiling, [128, 128]))


def test_records_of_another_program_are_not_cut(folder):
    """They hold pictures that are not cut: tiles are written next to them, evaluation reads them."""
    for is_training in (True, False):
        records = prepare_records(config(folder), is_training)
        records.lock.release()
        os.remove(records.files[0][:-1] + ".json")
    other = prepare_records(config(folder), True)
    assert other.count == 5 and other.files == prepare_records(config(folder), True).files
    tiles = prepare_records(config(folder, "--tile=32"), True)
    assert tiles.files != other.files and tiles.count > 5
