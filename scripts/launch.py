#!/usr/bin/env python3
"""Start train.py or eval.py on several devices, in the foreground: used by scripts/run_*.sh.

    run_distribute_train.sh [--device_num N] [--device_target GPU|Ascend|CPU] [--config_path FILE] [--key=value ...]

    --device_num N       processes, one a device (default 8)
    --device_target T    GPU, Ascend or CPU (default GPU); picks the configuration file too
    --launcher L         mpirun or msrun (default: msrun on Ascend, else mpirun)
    --hostfile FILE      machines for mpirun, one a line: name slots=8
    --log_output DIR     where the ranks' own output goes (default log_output)

Everything else is passed on: the keys of the configuration (train.py --help lists them). The exit status is the
run's; when it fails, the last line names the rank and the cause.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGETS = ("GPU", "Ascend", "CPU")
_SIGNALLED = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)")
_FAILED = re.compile(r"error: rank \d+: .*")


def parse(argv) -> tuple:
    """(options, the rest) of a command line without the program's name."""
    parser = argparse.ArgumentParser(
        prog="run", usage=argparse.SUPPRESS, description=__doc__, allow_abbrev=False, add_help=False
    )
    parser.add_argument("script", choices=("train", "eval"))
    parser.add_argument("--device_num", type=int)
    parser.add_argument("--device_target", choices=TARGETS, default="GPU")
    parser.add_argument("--config_path")
    parser.add_argument("--launcher", choices=("mpirun", "msrun"))
    parser.add_argument("--hostfile")
    parser.add_argument("--log_output", default="log_output")
    parser.add_argument("--standalone", action="store_true")
    options, rest = parser.parse_known_args(argv)
    if options.device_num is None:
        options.device_num = 1 if options.standalone or options.script == "eval" else 8
    if options.device_num < 1:
        parser.error("--device_num must be at least 1")
    name = f"ssd_resnet50_fpn_config_{options.device_target.lower()}.yaml"
    options.config_path = options.config_path or os.path.join(ROOT, "config", name)
    options.launcher = options.launcher or ("msrun" if options.device_target == "Ascend" else "mpirun")
    return options, rest


def command(options, rest) -> list:
    """The command line of a run."""
    script = [os.path.join(ROOT, f"{options.script}.py")]
    keys = [f"--device_target={options.device_target}", f"--config_path={options.config_path}", *rest]
    if options.device_num == 1:
        return [sys.executable, *script, *keys]
    keys = ["--run_distribute=True", f"--device_num={options.device_num}", *keys]
    number = str(options.device_num)
    if options.launcher == "msrun":
        ranks = ["--worker_num", number, "--local_worker_num", number, "--log_dir", options.log_output, "--join=True"]
        return ["msrun", *ranks, *script, *keys]
    mpirun = ["mpirun", "-allow-run-as-root", "-n", number]
    mpirun += ["--hostfile", options.hostfile] if options.hostfile else []
    mpirun += ["--output-filename", options.log_output, "--merge-stderr-to-stdout"]
    # the python beside this one: mpirun looks for `python3` on every machine's PATH
    return [*mpirun, "python3", *script, *keys]


def main(argv) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0
    options, rest = parse(argv)
    words = command(options, rest)
    environment = dict(os.environ)
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment.get("PATH", "")
    if options.device_target == "CPU":
        # more ranks than cores are slow, not wrong
        environment.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    if shutil.which(words[0], path=environment["PATH"]) is None:
        print(f"error: {words[0]} is not on PATH; pip install -r requirements.txt brings mpirun, MindSpore 2 msrun",
              file=sys.stderr)  # fmt: skip
        return 2
    print("+ " + " ".join(words), flush=True)
    if options.device_num == 1:
        os.execve(words[0], words, environment)
    return follow(words, environment)


def _end_with_parent() -> None:
    """The launcher gets SIGTERM when this process is killed (Linux)."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def follow(words: list, environment: dict) -> int:
    """Run a launcher, pass its output and our signals on, and end with the line that says why it failed."""
    run = subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C must not reach mpirun, which would kill the ranks while they save
        preexec_fn=_end_with_parent,
    )
    received = []

    def pass_on(number, _):
        # mpirun hands USR1 and USR2 to the ranks, which then save and leave; asked twice, it ends them
        gentle = words[0] == "mpirun" and not received
        received.append(number)
        run.send_signal({signal.SIGINT: signal.SIGUSR2}.get(number, signal.SIGUSR1) if gentle else signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, pass_on)
    reason = ""
    for line in run.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        signalled, failed = _SIGNALLED.search(line), _FAILED.search(line)
        if failed and not reason:
            reason = failed.group()
        if signalled and not reason:
            name = signal.Signals(int(signalled.group(2))).name
            reason = f"error: rank {signalled.group(1)}: ended by signal {signalled.group(2)} ({name})"
    status = run.wait()
    status = 128 - status if status < 0 else status
    if status and reason:
        print(reason, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
