import numpy as np
import pytest

from src.training.schedule import learning_rates
from tests.oracles import learning_rate


@pytest.mark.parametrize("name", ["a", "c"])
def test_published_rates(reference, name):
    figures = reference("learning_rate.npz")
    start, lr_init, lr_end, lr_max, warmup, total, steps = figures[f"args_{name}"].tolist()
    rates = learning_rates(int(start), lr_init, lr_end, lr_max, warmup, int(total), int(steps))
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, figures[f"lr_{name}"], rtol=1e-6)


def test_equals_the_formula_step_by_step():
    args = (0.001, 0.0005, 0.1, 2, 7, 13)
    want = [learning_rate(step, *args) for step in range(20, 91)]
    np.testing.assert_allclose(learning_rates(20, *args), want, rtol=1e-6)
