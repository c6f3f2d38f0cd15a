"""Files that are there whole or not at all."""

import os

import pytest

from src.output import OutputError, atomic_write


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "figures.json"
    with atomic_write(str(path)) as handle:
        handle.write("old\r\n")
    with pytest.raises(ValueError), atomic_write(str(path)) as handle:
        handle.write("new")
        assert path.read_bytes() == b"old\r\n"
        raise ValueError
    assert path.read_bytes() == b"old\r\n" and os.listdir(path.parent) == ["figures.json"]
    with atomic_write(str(path), "wb") as handle:
        handle.write(b"\xff")
    assert path.read_bytes() == b"\xff" and os.listdir(path.parent) == ["figures.json"]


def test_a_folder_in_its_place_is_an_error_and_stays(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError), atomic_write(str(tmp_path / "report.html")) as handle:
        handle.write("text")
    assert os.listdir(tmp_path) == ["report.html"]
