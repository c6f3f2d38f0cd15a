"""Earlier files in the output folder are moved, never overwritten."""

import json
import os

import pytest

from src.training import run_files
from src.training.run_files import cut_history, find_resume, list_checkpoints, prepare_folder
from src.utils.output import OutputError


@pytest.fixture(autouse=True)
def one_second(monkeypatch):
    """Everything happens within the same second."""
    monkeypatch.setattr(run_files.time, "strftime", lambda _: "20260101-000000")


def fill(folder, *names):
    os.makedirs(folder, exist_ok=True)
    for name in names:
        with open(os.path.join(folder, name), "w", encoding="utf-8") as handle:
            handle.write(f"{folder} {name}")


def content(folder):
    return sorted(os.listdir(folder))


def test_starts_of_one_second_overwrite_nothing(tmp_path):
    output, written = str(tmp_path), []
    for start in range(3):
        folder = prepare_folder(output, 0)
        assert content(folder) == [] and not os.path.exists(tmp_path / "history.jsonl")
        fill(folder, "ssd-1_2.ckpt", f"{start}.ckpt")
        fill(output, "history.jsonl", "config.yaml", "log_0.txt")
        written.append(sorted([f"{start}.ckpt", "ssd-1_2.ckpt", "history.jsonl", "config.yaml"]))
    moved = [content(tmp_path / f"ckpt_0.20260101-000000{more}") for more in ("", "-2")]
    assert moved == written[:2] and content(tmp_path / "ckpt_0") == ["2.ckpt", "ssd-1_2.ckpt"]
    assert os.path.exists(tmp_path / "log_0.txt")


def test_another_rank_leaves_rank_0_its_history(tmp_path):
    fill(tmp_path / "ckpt_1", "ssd-1_2.ckpt")
    fill(tmp_path, "history.jsonl")
    assert content(prepare_folder(str(tmp_path), 1)) == []
    assert content(tmp_path) == ["ckpt_1", "ckpt_1.20260101-000000", "history.jsonl"]


def test_going_on_keeps_what_is_older(tmp_path):
    folder = str(tmp_path / "ckpt_0")
    fill(folder, "ssd-1_2.ckpt", "ssd-2_1.ckpt", "ssd-10_2.ckpt", "best_map.ckpt", ".part-12.ckpt", ".part-9.tmp")
    fill(tmp_path, "history.jsonl", "config.yaml")
    for rank in (0, 1):
        prepare_folder(str(tmp_path), rank, os.path.join(folder, "ssd-2_1.ckpt"))
    assert content(folder) == ["best_map.ckpt", "ssd-1_2.ckpt", "ssd-2_1.ckpt"]
    assert content(f"{folder}.20260101-000000") == ["best_map.ckpt", "history.jsonl", "ssd-10_2.ckpt"]
    kept = content(tmp_path)
    assert kept == ["ckpt_0", "ckpt_0.20260101-000000", "ckpt_1", "config.yaml", "history.jsonl"]
    prepare_folder(str(tmp_path), 0, os.path.join(folder, "ssd-2_1.ckpt"))  # nothing is later: nothing moves
    assert content(tmp_path) == kept


def test_going_on_from_elsewhere_moves_the_run_that_lies_there(tmp_path):
    fill(tmp_path / "ckpt_0", "ssd-5_2.ckpt")
    fill(tmp_path / "other" / "ckpt_0", "ssd-1_2.ckpt")
    folder = prepare_folder(str(tmp_path), 0, str(tmp_path / "other" / "ckpt_0" / "ssd-1_2.ckpt"))
    assert content(folder) == [] and content(f"{folder}.20260101-000000") == ["ssd-5_2.ckpt"]


def test_order_is_by_number(tmp_path):
    fill(tmp_path / "ckpt_0", "ssd-10_1.ckpt", "ssd-9_100.ckpt", "ssd-9_20.ckpt", "ssd-x.ckpt", "best_map.ckpt")
    found = list_checkpoints(str(tmp_path / "ckpt_0"))
    assert [os.path.basename(path) for path in found] == ["ssd-9_20.ckpt", "ssd-9_100.ckpt", "ssd-10_1.ckpt"]
    assert find_resume("auto", str(tmp_path)) == found[::-1] and find_resume("", str(tmp_path)) == []


def test_history_loses_what_is_done_again(tmp_path):
    path = tmp_path / "history.jsonl"
    cut_history(str(tmp_path), 0)
    assert not path.exists()
    path.write_text("".join(json.dumps({"epoch": epoch}) + "\n" for epoch in (1, 2, 3)) + '{"epoch": 4, "lo')
    cut_history(str(tmp_path), 2)
    assert path.read_text() == '{"epoch": 1}\n{"epoch": 2}\n' and content(tmp_path) == ["history.jsonl"]


def test_a_folder_that_cannot_be_used_is_a_line(tmp_path):
    (tmp_path / "ckpt_0").write_text("a file")
    with pytest.raises(OutputError) as error:
        prepare_folder(str(tmp_path), 0)
    assert str(tmp_path / "ckpt_0") in str(error.value) and (tmp_path / "ckpt_0").read_text() == "a file"
