"""A cached graph is used only for the same run, and only if it is intact."""

import json
import os

import pytest

from src.utils import compile_cache
from src.utils.compile_cache import cache_folder, cache_key
from tests.helpers.paths import QUICKSTART_CONFIG
from tests.helpers.programs import run


@pytest.fixture
def writes(tmp_path, monkeypatch):
    """A cache in tmp_path and a fake MindSpore that writes or finds a graph; gives the list of its actions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    did = []

    def switch(on, folder):
        graph = os.path.join(folder, "graph.mindir")
        if on and os.path.exists(graph):
            did.append("found")
        elif on:
            did.append("compiled")
            with open(graph, "w", encoding="utf-8") as handle:
                handle.write("a graph")

    monkeypatch.setattr(compile_cache, "_switch", switch)
    return did


def use(made_from):
    with compile_cache.compile_cache(made_from):
        pass


def test_the_same_run_finds_it_another_does_not(writes):
    use({"alpha": 0.25})
    use({"alpha": 0.25})
    use({"alpha": 0.3})
    assert writes == ["compiled", "found", "compiled"]
    assert all(len(name) == 32 for name in os.listdir(cache_folder()))


def test_another_source_environment_or_version_is_another_graph(writes, monkeypatch, tmp_path):
    import mindspore as ms

    keys = [cache_key({})]
    for name in ("ONEDNN_MAX_CPU_ISA", "MS_DEV_BOOST_INFER", "SSD_PLAIN_CONV"):
        monkeypatch.setenv(name, "other")
        keys.append(cache_key({}))
    monkeypatch.setattr(ms, "__version__", "9.9")
    keys.append(cache_key({}))
    changed = tmp_path / "changed.py"
    changed.write_text("x = 1\n")
    monkeypatch.setattr(compile_cache, "_sources", lambda: [str(changed)])
    keys.append(cache_key({}))
    changed.write_text("x = 2\n")
    keys.append(cache_key({}))
    assert len(set(keys)) == 7


@pytest.mark.parametrize("damage", ["changed", "cut", "no checksums", "one more file"])
def test_a_damaged_one_is_compiled_again(writes, damage):
    use({})
    (folder,) = (os.path.join(cache_folder(), name) for name in os.listdir(cache_folder()))
    graph = os.path.join(folder, "graph.mindir")
    if damage == "changed":
        open(graph, "w").write("b graph")
    elif damage == "cut":
        open(graph, "w").close()
    elif damage == "no checksums":
        os.remove(os.path.join(folder, compile_cache.MANIFEST))
    else:
        open(os.path.join(folder, "another"), "w").close()
    use({})
    use({})
    assert writes == ["compiled", "compiled", "found"]


def test_an_error_while_compiling_leaves_nothing_and_old_ones_go(writes):
    with pytest.raises(RuntimeError), compile_cache.compile_cache({}):
        raise RuntimeError
    assert os.listdir(cache_folder()) == []
    for number in range(compile_cache.KEPT + 3):
        use({"number": number})
    assert len(os.listdir(cache_folder())) == compile_cache.KEPT


def test_without_room_or_home_there_is_none(writes, monkeypatch, tmp_path):
    usage = compile_cache.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(compile_cache.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
        use({})
    assert os.listdir(cache_folder()) == [] and writes == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", "~/relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(path))
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        use({})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda _: "~")  # a user without a home
    use({})
    assert writes == [] and sorted(os.listdir(tmp_path)) == ["file", "ssd_resnet50_fpn"]


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run("scripts/draw_shapes.py", "--output", tmp_path / "shapes", "--train", 4, "--val", 2, "--image_size", 128)
    assert done.returncode == 0, done.stderr

    def losses(name, *more):
        options = [
            f"--config_path={QUICKSTART_CONFIG}",
            f"--data_path={tmp_path}",
            "--coco_root=shapes",
            "--batch_size=2",
        ]
        options += [f"--output_path={tmp_path / name}", "--epoch_size=1", "--bn_recalibration_steps=0", *more]
        done = run("train.py", *options)
        assert done.returncode == 0, done.stderr
        with open(tmp_path / name / "history.jsonl", encoding="utf-8") as handle:
            row = json.loads(handle.read())
        text = (tmp_path / name / "log_0.txt").read_text()
        return "compile cache found" in text, [row[key] for key in ("loss", "loss_class", "loss_box", "gradient_norm")]

    compiled, again, other = losses("one"), losses("two"), losses("three", "--alpha=0.3")
    plain = losses("four", "--alpha=0.3", "--compile_cache=False")
    monkeypatch.setenv("MS_DEV_BOOST_INFER", "1")  # MindSpore's default, where init_device's is 0
    default = losses("five")
    assert [found for found, _ in (compiled, again, other, plain, default)] == [False, True, False, False, False]
    assert default[1] == again[1] == compiled[1] != other[1] and other[1] == plain[1]
