#!/usr/bin/env python3
"""Convert weights of another program (ResNet50, MobileNetV2, VGG16, VGG16-BN) to a backbone checkpoint.

    python3 scripts/convert_backbone.py --input resnet50.pth --output ckpt/resnet50.ckpt --fold_eps

--input: torchvision's state dict as .pth or .pt (needs torch), .safetensors (needs safetensors) or .npz, or a
published MindSpore checkpoint. The network is recognised by the parameter names. --output is the file for the option
feature_extractor_base_param. BN running statistics are converted too; entries that are not used, such as the
classifier, are listed. Published MobileNetV1 checkpoints need no conversion.

ResNet50 (for ssd_resnet50_fpn) and MobileNetV2 (for ssd300) of torchvision differ from the published networks in two
ways. The eps of BN is 1e-5 there and 1e-3 here: --fold_eps scales gamma so that both compute the same. Strided layers
pad all sides there, but only bottom and right here: --backbone_padding=symmetric in training, evaluation and export
makes them equal (parameter names do not change).

VGG16 (for ssd_vgg16) has no biases in the published network, and the BN of a file is not read: only the weights of the
13 convolutions are written, and the features differ from those of torchvision. The file converted from VGG16-BN needs
--pretrain_vgg_bn=True in training.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# first: it reports missing packages in one line
import src  # noqa: E402, F401

# isort: split
import numpy as np  # noqa: E402

from src.models.backbone_convert import convert_state_dict  # noqa: E402
from src.utils.errors import UserError, run_main  # noqa: E402
from src.utils.output import ensure_writable  # noqa: E402
from src.utils.signals import SignalGuard  # noqa: E402
from src.utils.text import one_line  # noqa: E402


def read_torch(path: str) -> dict:
    """A state dict, or the one inside a training checkpoint."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return {name: value.float().numpy() for name, value in content.items()}


def read_safetensors(path: str) -> dict:
    """All tensors of the file (not bfloat16, which NumPy lacks)."""
    from safetensors.numpy import load_file

    return load_file(path)


def read_npz(path: str) -> dict:
    """All arrays of the file."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def read_mindspore(path: str) -> dict:
    """All tensors of a MindSpore checkpoint."""
    from src.models.checkpoint_file import read_checkpoint

    entries = read_checkpoint(path, "input").items()
    return {name: entry.asnumpy() for name, entry in entries if not isinstance(entry, str)}


READERS = {
    ".pth": read_torch,
    ".pt": read_torch,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".ckpt": read_mindspore,
}


def read(path: str) -> dict:
    """Read a file of weights according to its extension: name -> array.

    Raises:
        UserError: the file is missing or damaged, its extension is unknown, or a package is missing.
    """
    ending = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise UserError(f"--input: {one_line(os.path.abspath(path))} is a folder; name the file of weights")
    if not os.path.isfile(path):
        raise UserError(f"--input: no such file: {one_line(os.path.abspath(path))}")
    if ending not in READERS:
        raise UserError(f"--input: the name must end in {', '.join(READERS)}, got {path}")
    try:
        return READERS[ending](path)
    except ImportError as error:
        raise UserError(
            f"--input: reading {ending} needs the package {error.name}: pip install {error.name}, or save the state "
            f"dict as .npz on a machine that has it: numpy.savez('x.npz', **{{k: v.numpy() for k, v in state.items()}})"
        ) from None
    except UserError:
        raise
    except Exception as error:  # for a damaged file each library raises other types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--input: {path} is damaged or not a {ending} file: {reason}") from None


def summary(names: list) -> str:
    """The names in one line; the batch counters of BN are only counted."""
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    others = [name for name in names if name not in counters]
    return ", ".join([f"{len(counters)} num_batches_tracked"] * bool(counters) + others) or "none"


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="FILE", help="weights to convert, see above")
    parser.add_argument("--output", required=True, metavar="FILE.ckpt", help="checkpoint to write")
    parser.add_argument(
        "--fold_eps", action="store_true", help="for weights from PyTorch (not VGG16): scale gamma of BN for eps 1e-3"
    )
    options = parser.parse_args(argv)
    output = os.path.abspath(options.output)
    if not output.endswith(".ckpt"):
        raise UserError(f"--output: the name must end in .ckpt, got {one_line(options.output)}")
    if os.path.isdir(output):
        raise UserError(f"--output: {one_line(output)} is a folder; name the file to write")
    if os.path.realpath(options.input) == os.path.realpath(output):
        raise UserError("--output: the file is the same as --input; name another one")
    SignalGuard().install()
    ensure_writable(os.path.dirname(output), "output")
    found = read(options.input)
    result = convert_state_dict(found, options.input, options.fold_eps)

    from src.models.checkpoint_file import write_checkpoint

    write_checkpoint(output, result.parameters.items())
    name, target = result.architecture.name, one_line(options.output)
    print(f"{target}: {len(result.parameters)} parameters, all that the {name} backbone has")
    print(f"{len(result.unused)} of {len(found)} entries were not used: {summary(result.unused)}")
    if result.unread:
        kinds = "biases and BN" if any(key.endswith(".gamma") for key in result.architecture.unread) else "biases"
        print(
            f"{len(result.unread)} more were not used: {kinds} of the convolutions, which the published network does "
            f"not load; its features differ from those of {name}"
        )
    if options.fold_eps:
        print("BN: gamma scaled for eps 1e-3")
    elif result.architecture.eps:
        print("BN: unchanged (eps is 1e-3 here; see --fold_eps)")
    print(f"train with --feature_extractor_base_param={target} {result.architecture.options}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
