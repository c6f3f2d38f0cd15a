"""Where a run computes: target, rank, size, seeds."""
from __future__ import annotations

import os

from src.log import LOGGER


def prepare_environment() -> None:
    """Environment that MindSpore reads at start-up. Called by the entry scripts before anything computes.

    oneDNN inside MindSpore 2.10 has no fast 3x3 kernel for AVX-512 machines and falls back to a reference
    kernel a hundred times slower; limited to AVX2 it is fast. A user's own value wins.
    """
    if "ONEDNN_MAX_CPU_ISA" in os.environ or "DNNL_MAX_CPU_ISA" in os.environ:
        return
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    LOGGER.info("ONEDNN_MAX_CPU_ISA=AVX2 set: without it MindSpore's convolutions are very slow on AVX-512 "
                "processors; a value of your own wins")


def init_device(cfg) -> None:
    """Graph mode on `device_target`, and the seeds of MindSpore and its data pipeline.

    Raises:
        UserError: this MindSpore has no such device.
    """
    import mindspore as ms

    from src.compat import set_device_target
    from src.errors import UserError

    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        set_device_target(cfg.device_target, cfg.device_id)
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"device_target: MindSpore {ms.__version__} cannot use '{cfg.device_target}' here ({first}); "
                        f"try --device_target=CPU") from error
    ms.set_seed(cfg.seed)
    ms.dataset.config.set_seed(cfg.seed)
