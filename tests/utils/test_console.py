"""The output may have no reader or no disk space: the work is still done, and the exit status says what was lost."""

import os
import signal
import subprocess
import sys

import pytest

from src.utils.errors import output_lost, run_main
from src.utils.log import LOGGER, setup_logging, write_or_go_on
from src.utils.output import write_text
from tests.helpers.paths import ROOT

BODY = """
import os, sys
from src.utils.errors import UserError, run_main
from src.utils.log import LOGGER, setup_logging
def main(argv):
    setup_logging({folder!r})
    for number in range(100):
        LOGGER.info("line %d %s", number, "x" * 100)
    with open(os.path.join({folder!r}, "result"), "w") as handle:
        handle.write("complete")
        handle.flush()
        os.system("echo from a library")
    LOGGER.info("end")
    {more}
sys.exit(run_main(main))
"""


def child(tmp_path, more="", **streams):
    """A program that logs 100 lines and writes a file, on these standard streams: (status, stderr)."""
    code = BODY.format(folder=str(tmp_path), more=more or "return 0")
    streams.setdefault("stderr", subprocess.PIPE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **streams)
    error = done.communicate(timeout=60)[1]
    assert (tmp_path / "result").read_text() == "complete"
    log = (tmp_path / "log_0.txt").read_text()
    assert all(f"line {number} " in log for number in range(100)) and "INFO end" in log
    return done.returncode, (error or b"").decode()


def no_reader():
    """The write end of a pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("more, status", [("", 0), ("print('result')", 141), ("raise UserError('wrong')", 2)])
def test_the_reader_goes_away(tmp_path, more, status):
    pipe = no_reader()
    got, error = child(tmp_path, more, stdout=pipe)
    assert got == status and "Traceback" not in error and "Exception" not in error
    assert ("error: wrong" in error) == (status == 2)
    assert child(tmp_path, more, stdout=pipe, stderr=pipe) == (status, "")
    os.close(pipe)
    if status == 2:
        assert "error: wrong" in (tmp_path / "log_0.txt").read_text()


@pytest.mark.parametrize("more, status", [("", 0), ("print('result')", 1)])
def test_a_full_device(tmp_path, more, status):
    with open("/dev/full", "wb") as full:
        got, error = child(tmp_path, more, stdout=full)
    assert got == status and "Traceback" not in error and "No space left on device" in error
    assert ("error: cannot write standard output" in error) == (status == 1)


def test_a_closed_standard_output(tmp_path):
    """Files that the program opens do not get its file descriptor."""
    assert child(tmp_path, "print('result')", preexec_fn=lambda: os.close(1)) == (0, "")


def test_characters_that_the_console_does_not_know(tmp_path):
    environment = dict(os.environ, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii:strict")
    code = "from src.utils.errors import run_main; print(run_main(lambda argv: print('\\u732b'), []))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert done.stdout == b"\\u732b\n0\n"


PROGRAMS = ["train", "eval", "export", "scripts/predict", "scripts/check_data", "scripts/show_samples"]
PROGRAMS += ["scripts/draw_shapes", "scripts/draw_detections", "scripts/convert_backbone"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_that_nobody_reads(program):
    pipe = no_reader()
    words = [sys.executable, os.path.join(ROOT, f"{program}.py"), "--help"]
    done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_what_did_not_arrive_is_named_at_the_end(tmp_path, capsys):
    (tmp_path / "folder").mkdir()

    def main(argv):
        setup_logging()
        for name in argv:
            write_or_go_on(str(tmp_path / name), write_text, str(tmp_path / name), name)

    assert run_main(main, ["folder", "file", "folder"]) == 1
    captured = capsys.readouterr()
    assert (tmp_path / "file").read_text() == "file" and captured.out.count(
        "folder"
    ) == 1  # logged once, when it happens
    assert captured.err.startswith(f"error: cannot write {tmp_path / 'folder'}: ") and captured.err.count("\n") == 1

    def arrives(argv):
        output_lost(str(tmp_path / "file"), "at first")
        write_or_go_on(str(tmp_path / "file"), write_text, str(tmp_path / "file"), "2")

    assert run_main(arrives, []) == 0


def test_an_error_of_the_machine_is_a_line_and_a_bug_is_not(tmp_path, capsys):
    def read_only(argv):
        raise PermissionError(13, "Permission denied", "/some/file")

    assert run_main(read_only, []) == 1
    assert capsys.readouterr().err == "error: /some/file: Permission denied\n"
    assert run_main(lambda argv: {}["key"], []) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_log_file_on_a_full_disk(tmp_path):
    code = """
import resource, sys
from src.utils.errors import run_main
from src.utils.log import LOGGER, setup_logging
def main(argv):
    setup_logging({folder!r})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
    for number in range(5):
        LOGGER.info("a line of the log %d", number)
    return 0
sys.exit(run_main(main))
""".format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1 and len(lines) == 2 and all("log_0.txt" in line for line in lines), lines
    assert done.stdout.decode().count("a line of the log") == 5
    log = (tmp_path / "log_0.txt").read_text()
    assert log.endswith("a line of the log 0\n") and log.count("\n") == 1  # no incomplete line


def test_a_log_file_that_cannot_be_opened_is_said_at_once(tmp_path, capsys):
    (tmp_path / "log_0.txt").mkdir()
    assert run_main(lambda argv: setup_logging(str(tmp_path)) and 0, []) == 1
    assert f"error: cannot write {tmp_path / 'log_0.txt'}" in capsys.readouterr().err
    setup_logging()
    LOGGER.handlers.clear()
