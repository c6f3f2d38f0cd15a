"""A damaged checkpoint file is never loaded, and a failed save keeps the old file."""

import errno
import os
import resource
import tracemalloc
import weakref

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.models.checkpoint_file import CHECKSUM, RUN_STATE, read_checkpoint, write_checkpoint
from src.utils.errors import RunError, UserError


def entries():
    rng = np.random.default_rng(0)
    return {
        RUN_STATE: np.frombuffer(b'{"epoch": 3}', np.uint8),
        "network.conv.weight": rng.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "global_step": np.array([7], np.int32),
        "momentum": np.array(0.9, np.float32),
        "best_map": np.array(0.25, np.float64),
    }


@pytest.fixture
def path(tmp_path):
    name = str(tmp_path / "ssd-1_2.ckpt")
    write_checkpoint(name, entries().items())
    return name


def test_what_is_written_is_read(path):
    got = read_checkpoint(path, "resume")
    assert list(got) == list(entries())
    for name, value in entries().items():
        assert got[name].asnumpy().dtype == value.dtype
        np.testing.assert_array_equal(got[name].asnumpy(), value)
    # MindSpore reads it too, and sees one entry more
    assert set(ms.load_checkpoint(path)) == {CHECKSUM, *entries()}
    assert os.listdir(os.path.dirname(path)) == ["ssd-1_2.ckpt"]


def test_its_mode_is_the_umask_s(tmp_path):
    """MindSpore writes files that are read-only for their owner and unreadable for everybody else."""
    for umask in (0o022, 0o027):
        path, before = str(tmp_path / f"{umask}.ckpt"), os.umask(umask)
        try:
            write_checkpoint(path, entries().items())
        finally:
            os.umask(before)
        assert os.stat(path).st_mode & 0o777 == 0o666 & ~umask


def test_no_more_than_one_entry_is_held(tmp_path):
    """Each array is freed before the one after the next is made, and none is copied."""
    size, count, alive = 1 << 20, 12, []

    def made():
        for number in range(count):
            array = np.full(size, number, np.uint8)
            alive.append(weakref.ref(array))
            yield f"w{number}", array
            del array
            assert sum(one() is not None for one in alive) <= 1

    tracemalloc.start()
    try:
        write_checkpoint(str(tmp_path / "a.ckpt"), made())
        assert tracemalloc.get_traced_memory()[1] < 3 * size
    finally:
        tracemalloc.stop()
    got = read_checkpoint(str(tmp_path / "a.ckpt"), "resume")
    assert [int(value.asnumpy()[-1]) for value in got.values()] == list(range(count))


def is_refused(path):
    try:
        got = read_checkpoint(path, "resume")
    except UserError as error:
        assert path in str(error) and "resume" in str(error)
        return True
    # what is accepted must be what was written
    return {name: value.asnumpy().tolist() for name, value in got.items()} == {
        name: value.tolist() for name, value in entries().items()
    }


def test_every_cut_and_every_changed_byte_is_found(path):
    with open(path, "rb") as handle:
        content = handle.read()
    assert len(content) < 1000
    for size in range(len(content)):
        with open(path, "wb") as handle:
            handle.write(content[:size])
        with pytest.raises(UserError, match="resume: .*damaged"):
            read_checkpoint(path, "resume")
    for place in range(len(content)):
        for flip in (1, 0x80):
            with open(path, "wb") as handle:
                handle.write(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            assert is_refused(path), f"byte {place} ^ {flip}"


def test_files_without_a_checksum_are_read(tmp_path):
    path = str(tmp_path / "published.ckpt")
    ms.save_checkpoint([{"name": "network.conv.weight", "data": Tensor(np.ones(3, np.float32))}], path)
    assert list(read_checkpoint(path, "pre_trained")) == ["network.conv.weight"]


def test_no_room_is_one_line_and_the_old_file_stays(path):
    before = open(path, "rb").read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = dict(entries(), big=np.zeros(1 << 20, np.uint8))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))  # a write beyond 64 KB fails
    try:
        with pytest.raises(RunError) as error:
            write_checkpoint(path, big.items())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in str(error.value) and path in str(error.value)
    assert os.listdir(os.path.dirname(path)) == ["ssd-1_2.ckpt"] and open(path, "rb").read() == before
    write_checkpoint(path, big.items())
    assert len(read_checkpoint(path, "resume")) == len(big)
