"""Kill conversions at random moments, then convert again: `kill_converter.py FOLDER KILLS` (a separate process).

Forked children convert, so MindSpore is imported only once. Prints the digest of the records after each second run.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time

# isort: off
import src  # noqa: F401  (finds CUDA's library for MindSpore 1.10, before it is imported)
from mindspore.mindrecord import FileReader  # imported before the forks

# isort: on
from src.data.records import prepare_records
from tests.helpers.records import config


def digest(folder):
    """Digest of the ids, images and boxes of all rows, in the order of ids."""
    records = prepare_records(config(folder), True)
    reader = FileReader(records.files[0], 1)
    rows = sorted(
        (int(row["img_id"][0]), bytes(row["image"]), row["annotation"].tobytes()) for row in reader.get_next()
    )
    reader.close()
    assert len(rows) == records.count
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print("failed:", repr(error), flush=True)
            os._exit(1)
    return child


def main(folder, kills):
    rng, records = random.Random(1), os.path.join(folder, "records")
    start = time.time()
    os.waitpid(forked(lambda: prepare_records(config(folder), True)), 0)
    duration = time.time() - start
    killed = 0
    for number in range(kills):
        if number % 3 == 0:
            shutil.rmtree(records, ignore_errors=True)
        # another annotation file makes the old records stale: the killed run replaces complete ones
        os.utime(os.path.join(folder, "coco", "train2017", "3.jpg"), (number, number))
        child = forked(lambda: prepare_records(config(folder), True))
        time.sleep(rng.uniform(0, 1.1 * duration))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        child = forked(lambda: print("digest", digest(folder), flush=True))
        assert os.waitpid(child, 0)[1] == 0
        assert not [name for name in os.listdir(records) if name.startswith(".")], os.listdir(records)
    print("killed", killed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
