"""The table of networks: what `model_name` may be, and what each network fixes. Needs no MindSpore."""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Tuple

from src.config.values import shown
from src.utils.errors import UserError


def _same_padded(*strides: int) -> Callable[[int], List[int]]:
    """Sides of the maps of a network whose convolutions all have "same" padding."""
    return lambda side: [-(-side // stride) for stride in strides]


def _vgg16(side: int) -> List[int]:
    """Sides of the maps of SSD300 VGG16, whose last two levels have convolutions without padding."""
    last = -(-side // 64)
    return [-(-side // 8), -(-side // 16), -(-side // 32), last, last - 2, last - 4]


class Network(NamedTuple):
    """One row of the table.

    build: `module:function` of the function (cfg) -> `src.models.ssd.SSD`.
    config: file in config/ with this network's default values.
    map_sides: side of the image in pixels -> side of each level's feature map.
    channels: of each level's feature map; None where all levels have the number in `extras_out_channels` and one
        shared head, which makes the number of default boxes per cell the same on all levels too.
    strides: of the levels, where `steps` must be these and the image's sides multiples of the last.
    keys: those of `OPTIONAL_KEYS` that the network reads.
    """

    build: str
    config: str
    map_sides: Callable[[int], List[int]]
    channels: Optional[Tuple[int, ...]] = None
    strides: Optional[Tuple[int, ...]] = None
    keys: Tuple[str, ...] = ()

    @property
    def has_shared_head(self) -> bool:
        return self.channels is None

    @property
    def smallest_side(self) -> int:
        """Side in pixels of the smallest image of which every level has a map."""
        return next(side for side in range(1, 1024) if min(self.map_sides(side)) > 0)


# keys that only some networks read -> neutral value, the only one that the others accept; None: the others accept and
# ignore any value
OPTIONAL_KEYS = {
    "num_addition_layers": None,
    "extras_in_channels": None,
    "extras_strides": None,
    "extras_ratio": None,
    "backbone_padding": "same",
    "ssd_vgg_bn": False,
    "pretrain_vgg_bn": False,
}
_FPN = (8, 16, 32, 64, 128)
_MOBILE = _same_padded(16, 32, 64, 128, 256, 512)
NETWORKS = {
    "ssd_resnet50_fpn": Network(
        "src.models.resnet:build_ssd_resnet50_fpn",
        "ssd_resnet50_fpn_config_gpu.yaml",
        _same_padded(*_FPN),
        strides=_FPN,
        keys=("num_addition_layers", "backbone_padding"),
    ),
    "ssd_mobilenet_v1_fpn": Network(
        "src.models.mobilenet_v1:build_ssd_mobilenet_v1_fpn",
        "ssd_mobilenet_v1_fpn_config_gpu.yaml",
        _same_padded(*_FPN),
        strides=_FPN,
        keys=("num_addition_layers", "backbone_padding"),
    ),
    "ssd300": Network(
        "src.models.mobilenet_v2:build_ssd300",
        "ssd300_config_gpu.yaml",
        _MOBILE,
        channels=(576, 1280, 512, 256, 256, 128),
        keys=("extras_in_channels", "extras_strides", "extras_ratio", "backbone_padding"),
    ),
    "ssd_mobilenet_v1": Network(
        "src.models.mobilenet_v1:build_ssd_mobilenet_v1",
        "ssd_mobilenet_v1_300_config_gpu.yaml",
        _MOBILE,
        channels=(512, 1024, 512, 256, 256, 128),
        keys=("extras_in_channels", "extras_strides", "backbone_padding"),
    ),
    "ssd_vgg16": Network(
        "src.models.vgg16:build_ssd_vgg16",
        "ssd_vgg16_config_gpu.yaml",
        _vgg16,
        channels=(512, 1024, 512, 256, 256, 256),
        keys=("ssd_vgg_bn", "pretrain_vgg_bn"),
    ),
}


def check_model_name(name, where: str) -> str:
    """The name of a network, in the spelling of `NETWORKS`.

    Raises:
        UserError: there is no such network.
    """
    matches = [known for known in NETWORKS if isinstance(name, str) and known == name.strip().lower()]
    if not matches:
        raise UserError(f"{where}: model_name must be one of {', '.join(NETWORKS)}, got {shown(name)}")
    return matches[0]
