#!/usr/bin/env python3
"""Start train.py or eval.py on several devices, in the foreground; used by scripts/run_*.sh.

    run_distribute_train.sh [--device_num N] [--device_target GPU|Ascend|CPU] [--config_path FILE] [--key=value ...]

    --device_num N       number of processes, one per device (default 8; run_eval.sh 1)
    --device_target T    GPU, Ascend or CPU (default: the one in FILE, else GPU)
    --config_path FILE   configuration (default: that of --model_name if it is given, else
                         config/ssd_resnet50_fpn_config_{gpu,ascend,cpu}.yaml by device target)
    --launcher L         mpirun or msrun (default: msrun on Ascend, else mpirun)
    --hostfile FILE      machines for mpirun, one per line: name slots=8
    --log_output DIR     folder for the output of the ranks (default log_output)

All other arguments, the keys of the configuration, are passed on (train.py --help lists them). The exit status is that
of the run; if it fails, the last line names the rank and the cause.

The positional arguments of the published scripts are accepted; options may follow them:

    run_distribute_train.sh DEVICE_NUM EPOCH_SIZE LR DATASET [RANK_TABLE.json] CONFIG [PRE_TRAINED
                            PRE_TRAINED_EPOCH_SIZE]
    run_standalone_train.sh DEVICE_ID EPOCH_SIZE LR DATASET CONFIG [PRE_TRAINED PRE_TRAINED_EPOCH_SIZE]
    run_eval.sh DATASET CHECKPOINT DEVICE_ID CONFIG
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGETS = ("GPU", "Ascend", "CPU")
SCRIPTS = {"train": "run_distribute_train.sh", "eval": "run_eval.sh"}
# positional arguments of the published scripts, and how many of them are required
_TRAINING = ("epoch_size", "lr", "dataset", "config_path", "pre_trained", "pre_trained_epoch_size")
POSITIONAL = {
    "run_distribute_train.sh": (("device_num", *_TRAINING), 5),
    "run_standalone_train.sh": (("device_id", *_TRAINING), 5),
    "run_eval.sh": (("dataset", "checkpoint_file_path", "device_id", "config_path"), 4),
}
_SIGNALLED = re.compile(r"process rank (\d+) with PID \d+ on node \S+ exited on signal (\d+)")
_FAILED = re.compile(r"error: rank \d+: .*")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        sys.exit(2)


def positional_to_options(script: str, words: list) -> list:
    """Convert the positional arguments of a published script to options.

    Raises:
        ValueError: they do not fit; the text names the accepted arguments, and the options for those that fit.
    """
    keys, count = POSITIONAL[script]
    words, table = list(words), ""
    if script == "run_distribute_train.sh" and len(words) > 4 and words[4].endswith(".json"):
        table = words.pop(4)
    names = " ".join(key.upper() for key in keys[:count])
    more = " [" + " ".join(key.upper() for key in keys[count:]) + "]" if keys[count:] else ""
    converted = " ".join(f"--{key}={shlex.quote(word)}" for key, word in zip(keys, words) if _fits(key, word))
    for key, word in zip(keys, words):
        if not _fits(key, word):
            raise ValueError(
                f"{word!r} is not a valid {key.upper()}; usage: {script} {names}{more}, or options: {converted}"
            )
    if len(words) not in range(count, len(keys) + 1):
        raise ValueError(
            f"got {len(words)} positional argument(s), {script} takes {names}{more}; "
            f"as options: bash scripts/{script} {converted}"
        )
    if table:
        print(f"the rank table {table} is not used: msrun and mpirun number the ranks", flush=True)
    return [f"--{key}={word}" for key, word in zip(keys, words)]


def _fits(key: str, word: str) -> bool:
    patterns = {
        "device_num": r"[1-9]\d*",
        "device_id": r"\d+",
        "epoch_size": r"[1-9]\d*",
        "pre_trained_epoch_size": r"\d+",
        "lr": r"\d*\.?\d*(e-?\d+)?",
        "dataset": r"(?i)coco|voc|other",
        "config_path": r".*\.ya?ml",
    }
    return re.fullmatch(patterns.get(key, ".*"), word) is not None


def _split(words: list) -> tuple:
    """(positional arguments at the start, the rest).

    Raises:
        ValueError: a word in the rest does not belong to an option.
    """
    start = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
    takes_value = False
    for word in words[start:]:
        if not word.startswith("--") and not takes_value:
            raise ValueError(f"{word!r} does not belong to an option; write --key value or --key=value")
        takes_value = word.startswith("--") and "=" not in word and word != "--standalone"
    return words[:start], words[start:]


def _target_of(config_path) -> str:
    """The device target in a configuration file; GPU if it has none."""
    for path in (config_path, os.path.join(ROOT, config_path or "")):
        with contextlib.suppress(OSError, TypeError), open(path, encoding="utf-8", errors="replace") as handle:
            found = re.search(r"^device_target:\s*[\"']?(\w+)", handle.read(), re.M)
            return _target(found.group(1)) if found and found.group(1).lower() in map(str.lower, TARGETS) else "GPU"
    return "GPU"


def _target(word: str) -> str:
    """The usual spelling of a device target."""
    return {target.lower(): target for target in TARGETS}.get(word.lower(), word)


def parse(argv) -> tuple:
    """(options, the rest) of a command line without the program name.

    Raises:
        ValueError: the positional arguments are not those of a published script.
    """
    parser = _Parser(prog="run", allow_abbrev=False, add_help=False)
    parser.add_argument("script", choices=("train", "eval"))
    parser.add_argument("--device_num", type=int)
    parser.add_argument("--device_target", choices=TARGETS, type=_target)
    parser.add_argument("--config_path")
    parser.add_argument("--launcher", choices=("mpirun", "msrun"), type=str.lower)
    parser.add_argument("--hostfile")
    parser.add_argument("--log_output", default="log_output")
    parser.add_argument("--standalone", action="store_true")
    words = list(argv)
    first = 2 if words[1:2] == ["--standalone"] else 1
    given, rest = _split(words[first:])
    if given:
        name = "run_standalone_train.sh" if first == 2 else SCRIPTS.get(words[0], "run_eval.sh")
        given = positional_to_options(name, given)
    options, rest = parser.parse_known_args([*words[:first], *given, *rest])
    options.device_target = options.device_target or _target_of(options.config_path)
    if options.device_num is None:
        options.device_num = 1 if options.standalone or options.script == "eval" else 8
    if options.device_num < 1:
        parser.error(f"--device_num must be at least 1, got {options.device_num}")
    if not options.config_path and not any(word.split("=")[0] == "--model_name" for word in rest):
        name = f"ssd_resnet50_fpn_config_{options.device_target.lower()}.yaml"
        options.config_path = os.path.join(ROOT, "config", name)
    options.launcher = options.launcher or ("msrun" if options.device_target == "Ascend" else "mpirun")
    return options, rest


def command(options, rest) -> list:
    """The command line that starts a run."""
    script = [os.path.join(ROOT, f"{options.script}.py")]
    keys = [f"--device_target={options.device_target}"]
    keys += [f"--config_path={options.config_path}"] if options.config_path else []
    keys += rest
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
    # `python3` instead of a path: mpirun looks it up in the PATH of every machine (here next to this Python, see main)
    return [*mpirun, "python3", *script, *keys]


def main(argv) -> int:
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return 0
    try:
        options, rest = parse(argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    words = command(options, rest)
    environment = dict(os.environ)
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment.get("PATH", "")
    if options.device_target == "CPU":
        # more ranks than cores are allowed, only slow
        environment.setdefault("OMPI_MCA_rmaps_base_oversubscribe", "1")
    if shutil.which(words[0], path=environment["PATH"]) is None:
        print(f"error: {words[0]} is not on PATH; mpirun comes with 'pip install -r requirements.txt', msrun with "
              "MindSpore 2", file=sys.stderr)  # fmt: skip
        return 2
    line = "+ " + " ".join(shlex.quote(word) for word in words)
    print(line.encode("utf-8", "backslashreplace").decode(), flush=True)
    if options.device_num == 1:
        os.execve(words[0], words, environment)
    return follow(words, environment)


def _end_with_parent() -> None:
    """Have the launcher receive SIGTERM when this process is killed (Linux)."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def follow(words: list, environment: dict) -> int:
    """Run a launcher, forward its output and our signals, and return its status. If it fails, print the cause last."""
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
        if received and number == signal.SIGHUP:
            return  # when a terminal closes, shell and kernel each send one
        # mpirun forwards USR1 and USR2 to the ranks, which then save and exit; a second signal ends them at once
        gentle = words[0] == "mpirun" and not received
        received.append(number)
        run.send_signal({signal.SIGINT: signal.SIGUSR2}.get(number, signal.SIGUSR1) if gentle else signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores it
            signal.signal(number, pass_on)
    reason = ""
    for line in run.stdout:
        _show(line, sys.stdout)
        signalled, failed = _SIGNALLED.search(line), _FAILED.search(line)
        if failed and not reason:
            reason = failed.group()
        if signalled and not reason:
            name = signal.Signals(int(signalled.group(2))).name
            reason = f"error: rank {signalled.group(1)}: ended by signal {signalled.group(2)} ({name})"
    status = run.wait()
    status = 128 - status if status < 0 else status
    if status == 143 and received == [signal.SIGHUP]:
        status = 129  # the ranks received USR1 instead of SIGHUP
    if status and reason:
        _show(reason + "\n", sys.stderr)
    return status


def _show(text: str, stream) -> None:
    """Write to a stream. If its reader has ended (a closed terminal, `| head`), the run continues without output."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # the reader of --help has ended
        os._exit(141)
