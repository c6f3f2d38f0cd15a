"""The learning rate: single steps by hand, complete schedules against the formula and the published values."""

import math

import numpy as np
import pytest

from src.config import load_config
from src.training.schedule import build_learning_rates, learning_rates
from tests.oracles import learning_rate


@pytest.mark.parametrize("name", ["a", "c"])
def test_published_rates(reference, name):
    published = reference("learning_rate.npz")
    start, lr_init, lr_end, lr_max, warmup, total, steps = published[f"args_{name}"].tolist()
    rates = learning_rates(int(start), lr_init, lr_end, lr_max, warmup, int(total), int(steps))
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, published[f"lr_{name}"], rtol=1e-6)


def test_equals_the_formula_step_by_step():
    args = (0.001, 0.0005, 0.1, 2, 7, 13)
    want = [learning_rate(step, *args) for step in range(20, 91)]
    np.testing.assert_allclose(learning_rates(20, *args), want, rtol=1e-6)


# Six epochs of ten steps, two of them warm-up, from 0.01 up to 0.05 and down to 0.002:
#
#   step                                                rate
#      0   start                                        0.01
#      5   warm-up, 5 of 20 steps:                      0.01 + 0.04 * 5 / 20 = 0.02
#     20   top                                          0.05
#     30   cosine, 10 of 40 steps, a quarter of pi:     0.002 + 0.048 * (1 + 0.7071068) / 2 = 0.0429706
#     40   cosine, 20 of 40 steps, half of pi:          0.002 + 0.048 * (1 + 0) / 2 = 0.026
#     59   last, 39 of 40 steps:                        0.002 + 0.048 * (1 - 0.9969173) / 2 = 0.0020740
BY_HAND = {0: 0.01, 5: 0.02, 20: 0.05, 30: 0.0429706, 40: 0.026, 59: 0.0020740}


def test_single_steps_by_hand():
    rates = learning_rates(0, 0.01, 0.002, 0.05, 2, 6, 10)
    assert len(rates) == 60
    for step, rate in BY_HAND.items():
        assert rates[step] == pytest.approx(rate, rel=2e-5), step
    assert rates[30] == pytest.approx(0.002 + 0.048 * (1 + math.sqrt(0.5)) / 2, rel=1e-6)


def test_a_resumed_run_continues_the_schedule():
    assert learning_rates(30, 0.01, 0.002, 0.05, 2, 6, 10)[0] == pytest.approx(BY_HAND[30], rel=2e-5)


def test_rates_of_a_configuration():
    keys = ["--lr=0.05", "--lr_init=0.01", "--lr_end_rate=0.04", "--warmup_epochs=2", "--epoch_size=6"]
    cfg = load_config(["--device_target=CPU", *keys])
    rates = build_learning_rates(cfg, 10)
    want = [learning_rate(step, 0.01, 0.002, 0.05, 2, 6, 10) for step in range(60)]
    np.testing.assert_allclose(rates, want, rtol=1e-6)


@pytest.mark.parametrize(
    "keys, devices, factor",
    [
        (["--batch_size=16"], 8, 1),
        (["--batch_size=4"], 1, 4 / 128),
        (["--batch_size=4", "--device_target=Ascend"], 2, 8 / 256),
        (["--batch_size=64", "--model_name=ssd300"], 1, 2),
    ],
)
def test_scaled_rates(keys, devices, factor):
    """Every rate, those of the warm-up included; without the key none, whatever the batch."""
    cfg = load_config(["--epoch_size=6", "--scale_lr=True", *keys])
    plain = load_config(["--epoch_size=6", *keys])
    rates, published = build_learning_rates(cfg, 10, devices), build_learning_rates(plain, 10)
    np.testing.assert_allclose(rates, published * factor, rtol=1e-6)
    np.testing.assert_array_equal(build_learning_rates(plain, 10, devices), published)
    if factor == 1:
        np.testing.assert_array_equal(rates, published)
