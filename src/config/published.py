"""Keys of the published configuration files that have no effect in this repository."""

from __future__ import annotations

from src.utils.errors import UserError

# Keys without effect here, with an example of their type
PUBLISHED_KEYS = {
    "enable_modelarts": False,
    "data_url": "",
    "train_url": "",
    "checkpoint_url": "",
    "load_path": "",
    "result_path": "",
    "img_path": "",
    "drop": False,
    "global_step": 0,
}
_TRUE_MEANS = {
    "enable_modelarts": "nothing is copied from or to ModelArts; set it to False and give data_path and output_path",
}


def check_published(values: dict, where: str) -> None:
    """Check that no published key requests a missing feature.

    Raises:
        UserError: the first of them.
    """
    for key, meaning in _TRUE_MEANS.items():
        if values.get(key):
            raise UserError(f"{where}: {key} is True: {meaning}")
