"""Keys and networks of the published configuration files that this repository does not have."""

from __future__ import annotations

from src.config.values import shown
from src.utils.errors import UserError

# The networks of this repository: name -> strides of the levels
NETWORKS = {"ssd_resnet50_fpn": (8, 16, 32, 64, 128)}
# Keys without effect here, with an example of their type
PUBLISHED_KEYS = {
    "enable_modelarts": False,
    "data_url": "",
    "train_url": "",
    "checkpoint_url": "",
    "load_path": "",
    "ssd_vgg_bn": False,
    "pretrain_vgg_bn": False,
    "extras_in_channels": [1],
    "extras_strides": [1],
    "extras_ratio": [1.0],
    "result_path": "",
    "img_path": "",
    "drop": False,
    "global_step": 0,
}
_TRUE_MEANS = {
    "enable_modelarts": "nothing is copied from or to ModelArts; set it to False and give data_path and output_path",
    "ssd_vgg_bn": "it belongs to ssd_vgg16, which does not exist here; set it to False",
    "pretrain_vgg_bn": "it belongs to ssd_vgg16, which does not exist here; set it to False",
}


def check_published(values: dict, where: str) -> None:
    """Check that no published key requests a missing feature.

    Raises:
        UserError: the first of them.
    """
    for key, meaning in _TRUE_MEANS.items():
        if values.get(key):
            raise UserError(f"{where}: {key} is True: {meaning}")


def check_model_name(name, where: str) -> str:
    """The name of a network of this repository, in the spelling of `NETWORKS`.

    Raises:
        UserError: there is no such network.
    """
    matches = [known for known in NETWORKS if isinstance(name, str) and known == name.strip().lower()]
    if not matches:
        known = " or ".join(NETWORKS)
        raise UserError(
            f"{where}: model_name must be {known}, the only network of this repository, got {shown(name)}; "
            f"its configuration is config/ssd_resnet50_fpn_config_gpu.yaml"
        )
    return matches[0]
