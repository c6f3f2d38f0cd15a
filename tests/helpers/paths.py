"""Paths in the repository."""

from __future__ import annotations

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REFERENCE = os.path.join(ROOT, "tests", "reference")
QUICKSTART_CONFIG = os.path.join(ROOT, "config", "ssd_resnet50_fpn_config_quickstart.yaml")
