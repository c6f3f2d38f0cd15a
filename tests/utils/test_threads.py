"""src/utils/threads.py: results in order, bounded in number and bytes, and nothing goes on after the end."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from src.utils.threads import ordered_map


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_results_come_in_the_order_of_the_items(pool):
    def wait(number):
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number

    items = ((number, 1) for number in range(50))
    assert list(ordered_map(pool, wait, items, 8, 100)) == [number * number for number in range(50)]


@pytest.mark.parametrize("ahead, max_bytes, most", [(6, 1000, 6), (100, 25, 3), (100, 5, 1), (1, 1000, 1)])
def test_items_are_taken_within_both_limits(pool, ahead, max_bytes, most):
    """Each item has 10 bytes: a limit of 25 is exceeded by the third, which is the last one taken."""
    taken, furthest = [], []

    def items():
        for number in range(30):
            taken.append(number)
            yield number, 10

    for count, _ in enumerate(ordered_map(pool, abs, items(), ahead, max_bytes)):
        furthest.append(len(taken) - count)
    assert max(furthest) == most and len(furthest) == 30


def test_an_error_comes_at_its_turn_and_the_rest_is_cancelled(pool):
    started = []

    def fail(number):
        started.append(number)
        time.sleep(0.005)
        if number == 3:
            raise ValueError("three")
        return number

    results = ordered_map(pool, fail, ((number, 0) for number in range(1000)), 20, 1)
    seen = []
    with pytest.raises(ValueError, match="three"):
        for result in results:
            seen.append(result)
    assert seen == [0, 1, 2]
    pool.shutdown()
    assert len(started) < 15


def test_closing_cancels_what_has_not_begun():
    started = []

    def slow(number):
        started.append(number)
        time.sleep(0.05)
        return number

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, slow, ((number, 0) for number in range(1000)), 50, 1)
        assert next(results) == 0
        results.close()
    assert len(started) <= 6
