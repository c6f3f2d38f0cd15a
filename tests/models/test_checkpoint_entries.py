"""Checkpoints of MindSpore are read bit for bit, also when the page cache is full."""

import os

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from mindspore.train import serialization

from src.models import checkpoint_entries, checkpoint_file
from src.models.checkpoint_entries import BrokenFile, UnknownType, entry_parts, read_entries, read_entry
from src.models.checkpoint_file import read_checkpoint, write_checkpoint
from src.utils.errors import RunError, UserError

KINDS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
KINDS += ["float16", "float32", "float64"]


def arrays():
    rng = np.random.default_rng(3)
    values = {f"net.{kind}": (rng.normal(size=(3, 2, 4)) * 50).astype(kind) for kind in KINDS}
    values["global_step"] = np.array([7], np.int32)
    values["momentum"] = np.array(0.9, np.float32)
    values["special"] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    return values


def save(path, values, **more):
    rows = [{"name": name, "data": Tensor(value)} for name, value in values.items()]
    ms.save_checkpoint(rows, str(path), **more)
    return str(path)


def same_bits(got, expected):
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


def test_every_type_as_mindspore_writes_it(tmp_path):
    path = save(tmp_path / "a.ckpt", arrays())
    got = read_entries(path)
    assert list(got) == list(arrays())
    for name, value in arrays().items():
        same_bits(got[name], value)
        same_bits(read_entry(path, name), value)
    for name, entry in ms.load_checkpoint(path).items():
        same_bits(read_checkpoint(path, "key")[name].asnumpy(), entry.asnumpy())
    assert read_entry(path, "net") is None


@pytest.mark.parametrize("piece", [1 << 29, 16])
def test_mindspore_reads_what_we_write(tmp_path, monkeypatch, piece):
    """The bytes are those of MindSpore, except for the shape of a scalar in 1.10 ([0])."""
    monkeypatch.setattr(checkpoint_entries, "_PIECE", piece)
    values = dict(arrays(), **{"网.权重": np.arange(12, dtype=np.float32).reshape(3, 4).T, "a" * 200: np.ones(1)})
    theirs, ours = save(tmp_path / "theirs.ckpt", values), tmp_path / "ours.ckpt"
    parts = {name: b"".join(entry_parts(name, value)) for name, value in values.items()}
    ours.write_bytes(b"".join(parts.values()))
    expected, got, read = ms.load_checkpoint(theirs), ms.load_checkpoint(str(ours)), read_entries(str(ours))
    assert list(got) == list(expected) == list(read) == list(values)
    for name, value in values.items():
        same_bits(got[name].asnumpy(), expected[name].asnumpy())
        same_bits(got[name].asnumpy().reshape(value.shape), value)  # 1.10 gives a bool the shape (1,)
        same_bits(read[name], value)
    del values["momentum"]
    if piece > 16:
        path = save(tmp_path / "no_scalar.ckpt", values)
        with open(path, "rb") as handle:
            assert handle.read() == b"".join(parts[name] for name in values)


def test_a_type_that_no_checkpoint_has():
    with pytest.raises(UnknownType, match="w is of the type complex64"):
        list(entry_parts("w", np.zeros(2, np.complex64)))


def test_texts_and_numbers_of_append_dict(tmp_path):
    cell = ms.nn.Dense(2, 3)
    path = str(tmp_path / "a.ckpt")
    ms.save_checkpoint(cell, path, append_dict={"epoch": 7, "loss": 0.5, "good": True, "note": "Straße, 猫"})
    got, theirs = read_checkpoint(path, "key"), ms.load_checkpoint(path)
    assert list(got) == list(theirs)
    assert got["note"] == theirs["note"] == "Straße, 猫"
    for name in set(got) - {"note"}:  # 1.10 gives a bool the shape (1,)
        same_bits(got[name].asnumpy(), theirs[name].asnumpy().reshape(got[name].shape))


def test_large_tensors_come_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SLICE_SIZE", 1)  # KB
    big = np.random.default_rng(0).normal(size=(7, 300)).astype(np.float32)
    path = save(tmp_path / "a.ckpt", {"first": np.ones(3, np.float32), "big": big, "last": np.zeros(2, np.int64)})
    with open(path, "rb") as handle:
        assert handle.read().count(b"big") > 7
    got = read_entries(path)
    assert list(got) == ["first", "big", "last"]
    same_bits(got["big"], big)
    same_bits(read_entry(path, "big"), big)


@pytest.mark.skipif(not hasattr(ms, "bfloat16"), reason="MindSpore 1.10 has no bfloat16")
def test_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625, 1e30], np.float32)  # 1e30 is rounded
    path = str(tmp_path / "a.ckpt")
    ms.save_checkpoint([{"name": "w", "data": Tensor(values, ms.bfloat16)}], path)
    same_bits(read_entries(path)["w"], Tensor(values, ms.bfloat16).astype(ms.float32).asnumpy())


@pytest.mark.skipif(not hasattr(ms, "set_device"), reason="MindSpore 1.10 writes no CRC")
def test_crc_at_the_end(tmp_path):
    path = save(tmp_path / "a.ckpt", {"w": np.ones(30, np.float32)}, crc_check=True)
    same_bits(read_entries(path)["w"], np.ones(30, np.float32))
    os.chmod(path, 0o644)
    with open(path, "r+b") as handle:
        handle.seek(60)
        handle.write(b"\1")
    with pytest.raises(BrokenFile, match="CRC"):
        read_entries(path)


def no_free_pages(name):
    return {"SC_AVPHYS_PAGES": 1, "SC_PAGE_SIZE": 1}[name] if name in ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE") else 4096


def test_a_full_page_cache_does_not_matter(tmp_path, monkeypatch):
    """Free pages are few after an epoch over a large data set; 2.10's `load_checkpoint` then refuses every file."""
    monkeypatch.setattr(os, "sysconf", no_free_pages)
    published = save(tmp_path / "published.ckpt", arrays())
    write_checkpoint(str(tmp_path / "ours.ckpt"), arrays().items())
    for path in (published, str(tmp_path / "ours.ckpt")):
        for name, value in arrays().items():
            same_bits(read_checkpoint(path, "resume")[name].asnumpy(), value)


def test_only_damaged_bytes_are_called_damaged(tmp_path, monkeypatch):
    path = save(tmp_path / "a.ckpt", arrays())

    def fails(error):
        def read(_):
            raise error

        monkeypatch.setattr(checkpoint_file, "read_entries", read)
        with pytest.raises((UserError, RunError)) as raised:
            read_checkpoint(path, "resume")
        return str(raised.value)

    assert fails(MemoryError()).startswith("resume: not enough memory to read")
    assert fails(OSError(5, "Input/output error")) == f"resume: cannot read {path}: Input/output error"
    assert fails(BrokenFile("it is cut")) == f"resume: {path} is damaged or no checkpoint: it is cut"


def test_no_damage_ends_the_process(tmp_path):
    """A file without a checksum: each changed byte gives other values or a one-line error; MindSpore aborts on some."""
    path = save(tmp_path / "a.ckpt", {"w": np.ones((2, 3), np.float32), "step": np.array([7], np.int32)})
    os.chmod(path, 0o644)
    with open(path, "rb") as handle:
        content = handle.read()
    for position in range(len(content)):
        for flip in (1, 2, 0x10, 0x80):
            with open(path, "wb") as handle:
                handle.write(content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :])
            try:
                read_checkpoint(path, "pre_trained")
            except UserError as error:
                assert str(error).startswith(f"pre_trained: {path}")
    for name in ("text.ckpt", "zip.ckpt", "html.ckpt", "empty.ckpt"):
        content = {"text": b"hello\n" * 50, "zip": b"PK\3\4" * 60, "html": b"<html>", "empty": b""}[name[:-5]]
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            read_checkpoint(str(tmp_path / name), "pre_trained")
