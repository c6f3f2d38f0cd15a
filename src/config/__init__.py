"""Configuration: `load_config`, and values derived from a configuration. Needs no MindSpore."""

from src.config.checks import check_network, tiling_fault
from src.config.load import ROOT, SCHEMA_FILE, default_values, load_config, log_notes
from src.config.networks import NETWORKS
from src.config.paths import (
    checkpoint_file,
    data_file,
    learning_rate_advice,
    learning_rate_factor,
    voc_json_paths,
)

__all__ = [
    "NETWORKS",
    "ROOT",
    "SCHEMA_FILE",
    "check_network",
    "checkpoint_file",
    "data_file",
    "default_values",
    "learning_rate_advice",
    "learning_rate_factor",
    "load_config",
    "log_notes",
    "tiling_fault",
    "voc_json_paths",
]
