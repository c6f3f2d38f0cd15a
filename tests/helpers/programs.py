"""Programs as processes."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers.paths import ROOT


def run(script, *options, cwd=None):
    """Run a script of the repository; returns the finished process, with its output as text."""
    environment = dict(os.environ, GLOG_v="4")
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, script), *map(str, options)],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
