#!/usr/bin/env python3
"""Make a backbone checkpoint from weights of another program: ResNet50, MobileNetV2, VGG16 or VGG16-BN.

    python3 scripts/convert_backbone.py --input resnet50.pth --output ckpt/resnet50.ckpt --fold_eps

--input: torchvision's state dict as .pth or .pt (needs torch), .safetensors (needs safetensors) or .npz, or a
published MindSpore checkpoint. The network is recognised by the names of the parameters. --output is what the key
feature_extractor_base_param reads. BN averages come along; the classifier is left out; every entry of the input is
accounted for. A published MobileNetV1 checkpoint is read by feature_extractor_base_param as it is.

ResNet50 (ssd_resnet50_fpn) and MobileNetV2 (ssd300) of torchvision differ from the published networks in two ways.
BN's eps is 1e-5 there and 1e-3 here: --fold_eps scales gamma so that both compute the same. Strided layers pad both
sides there, below and right only here: --backbone_padding=symmetric in training, evaluation and export makes them
equal (and the checkpoint's names stay).

VGG16 (ssd_vgg16) has no biases in the published network and reads no BN: only the 13 convolution weights are written,
and the features differ from torchvision's. A file made from VGG16-BN needs --pretrain_vgg_bn=True in training.
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
    """A state dict, bare or under the key of a training checkpoint."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return {name: value.float().numpy() for name, value in content.items()}


def read_safetensors(path: str) -> dict:
    """Every tensor of the file (half precisions too, but bfloat16, which NumPy lacks)."""
    from safetensors.numpy import load_file

    return load_file(path)


def read_npz(path: str) -> dict:
    """Every array of the file."""
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def read_mindspore(path: str) -> dict:
    """Every tensor of a MindSpore checkpoint."""
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
    """Name -> array of a file, by its ending.

    Raises:
        UserError: no such file, another ending, a package that is missing, a damaged file.
    """
    ending = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise UserError(f"--input: {one_line(os.path.abspath(path))} is a folder; name the file of weights")
    if not os.path.isfile(path):
        raise UserError(f"--input: no such file: {one_line(os.path.abspath(path))}")
    if ending not in READERS:
        raise UserError(f"--input: a name that ends in {', '.join(READERS)} is wanted, got {path}")
    try:
        return READERS[ending](path)
    except ImportError as error:
        raise UserError(
            f"--input: reading {ending} needs the package {error.name}: pip install {error.name}, or save the state "
            f"dict as .npz where it is installed: numpy.savez('x.npz', **{{k: v.numpy() for k, v in state.items()}})"
        ) from None
    except UserError:
        raise
    except Exception as error:  # each library has its own kinds for a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"--input: {path} is damaged or no {ending} file: {reason}") from None


def summary(names: list) -> str:
    """The names in one line, BN's counters as a number."""
    counters = [name for name in names if name.endswith("num_batches_tracked")]
    others = [name for name in names if name not in counters]
    return ", ".join([f"{len(counters)} num_batches_tracked"] * bool(counters) + others) or "none"


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FILE.ckpt")
    parser.add_argument(
        "--fold_eps", action="store_true", help="for weights of PyTorch (not VGG16): BN computes what it does there"
    )
    options = parser.parse_args(argv)
    output = os.path.abspath(options.output)
    if not output.endswith(".ckpt"):
        raise UserError(f"--output: a name that ends in .ckpt is wanted, got {one_line(options.output)}")
    if os.path.isdir(output):
        raise UserError(f"--output: {one_line(output)} is a folder; name the file to write")
    if os.path.realpath(options.input) == os.path.realpath(output):
        raise UserError("--output: this is the file of --input; name another one")
    SignalGuard().install()
    ensure_writable(os.path.dirname(output), "output")
    found = read(options.input)
    result = convert_state_dict(found, options.input, options.fold_eps)

    from src.models.checkpoint_file import write_checkpoint

    write_checkpoint(output, result.parameters.items())
    name, target = result.architecture.name, one_line(options.output)
    print(f"{target}: {len(result.parameters)} parameters of the backbone, all of {name}'s")
    print(f"of {len(found)} entries {len(result.unused)} have no place in it: {summary(result.unused)}")
    if result.unread:
        print(
            f"{len(result.unread)} more, biases and BN of the convolutions, are not read, as in the published network: "
            f"its features differ from those of {name}"
        )
    if options.fold_eps:
        print("BN: gamma scaled for eps 1e-3")
    elif result.architecture.eps:
        print("BN: as it was (eps is 1e-3 here; see --fold_eps)")
    print(f"train with --feature_extractor_base_param={target} {result.architecture.options}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
