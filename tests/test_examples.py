"""The examples run, and say what is wrong with bad data."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from cuda_fake import fake_gpu

import tetractys as tx
from tetractys import init

EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    """Import an example by its path."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mnist():
    """Return examples/mnist.py as a module."""
    return load_example("mnist")


def idx(array):
    """Return the content of an IDX file."""
    array = np.asarray(array, "uint8")
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_digits(folder, count=6, prefix="t10k", suffix="", pixels=(3, 4)):
    """Write a small set of random images and labels."""
    rng = np.random.default_rng(0)
    for stem, array in ((f"{prefix}-images-idx3-ubyte", rng.integers(256, size=(count, *pixels))),
                        (f"{prefix}-labels-idx1-ubyte", rng.integers(10, size=count))):
        content = idx(array)
        (folder / (stem + suffix)).write_bytes(gzip.compress(content) if suffix else content)


def run_mnist(tmp_path, *options, **variables):
    """Run the example as a user does, with these variables in the environment."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "mnist.py"), "--output", str(tmp_path), *options],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, env={**os.environ, **variables})


# -- the main job ----------------------------------------------------------------------------------

@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_mnist_learns_from_the_sample(tmp_path, device, request):
    if device == "cuda":
        request.getfixturevalue("real_gpu")
    run = run_mnist(tmp_path, "--epochs", "3", TETRACTYS_DEVICE=device)
    assert run.returncode == 0, run.stderr
    *_, last = run.stdout.splitlines()
    found = re.fullmatch(r"test error (\d+\.\d\d) %", last)
    assert found and float(found[1]) < 12.0
    epochs = re.findall(r"^epoch +(\d)/3 +train loss \d\.\d{4} accuracy +\d+\.\d\d % +"
                        r"test loss \d\.\d{4} accuracy +\d+\.\d\d %$", run.stdout, re.MULTILINE)
    assert epochs == ["1", "2", "3"]
    assert "batch" in run.stderr
    for picture in ("mnist-curves.png", "mnist-weights.png"):
        content = (tmp_path / picture).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5000


def test_mnist_learns_the_same_on_an_emulated_gpu(mnist, tmp_path, monkeypatch):
    write_digits(tmp_path, 20)
    data, test = mnist.load(tmp_path)
    monkeypatch.setattr(tx.config, "floatX", "float32")
    monkeypatch.setattr(init, "_rng", init._rng)  # what set_rng sets
    found = []
    with fake_gpu() as gpu:
        for device in ("cpu", "cuda"):
            monkeypatch.setattr(tx.config, "device", device)
            init.set_rng(1)
            model = mnist.build((3, 4), hidden_units=8)
            history = mnist.train(model, data, test, epochs=1, batch_size=5, learning_rate=0.1,
                                  seed=1)
            found.append(np.array([astuple(epoch) for epoch in history]))
    assert gpu.launched and found[0].shape == (1, 4)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_mnist_is_reproducible(tmp_path):
    runs = [run_mnist(tmp_path, "--epochs", "1", "--seed", seed) for seed in ("4", "4", "5")]
    first, same, other = (run.stdout.replace("\r", "\n") for run in runs)
    assert first == same != other


def test_the_sample_is_small_and_whole(mnist):
    assert sum(path.stat().st_size for path in mnist.SAMPLE.iterdir()) < 2_000_000
    train, test = mnist.load(mnist.SAMPLE)
    assert train.images.shape == test.images.shape == (5000, 28, 28)
    assert set(train.labels) == set(test.labels) == set(range(10))


# -- reading ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_full_set_is_read_gzipped_or_not(mnist, tmp_path, suffix):
    write_digits(tmp_path, 6, "t10k", suffix)
    write_digits(tmp_path, 9, "train", suffix)
    train, test = mnist.load(tmp_path)
    assert train.images.shape == (9, 3, 4) and test.images.shape == (6, 3, 4)
    assert train.labels.shape == (9,) and test.labels.dtype == np.uint8


def test_the_test_set_alone_is_split(mnist, tmp_path):
    write_digits(tmp_path, 7)
    train, test = mnist.load(tmp_path)
    assert len(train.labels) == len(train.images) == 3 and len(test.labels) == 4


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize("name, content, message", [
    (IMAGES, b"", "begins with nothing"),
    (IMAGES, b"\x89PNG....", "begins with 89 50 4e 47, not 00 00 08 03"),
    (IMAGES, idx([1, 2]), "begins with 00 00 08 01, not 00 00 08 03"),
    (IMAGES, b"\0\0\x08\x03\0\0", "ends within its header"),
    (IMAGES, idx(np.zeros((6, 3, 4)))[:-1], "declares 6 x 3 x 4 bytes and holds 71"),
    (IMAGES, idx(np.zeros((6, 3, 4))) + b"x", "declares 6 x 3 x 4 bytes and holds 73"),
    (IMAGES, b"\0\0\x08\x03" + b"\xff" * 12, "declares 4294967295 x .* holds 0"),
    (LABELS, idx(np.zeros(5)), "has 6 images, .* 5 labels"),
    (LABELS, idx([0, 1, 2, 3, 4, 10]), "has the label 10; digits end at 9"),
])
def test_malformed_files_are_named(mnist, tmp_path, name, content, message):
    write_digits(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(mnist.DataError, match=f"(?s){re.escape(name)}.*{message}|{message}"):
        mnist.load(tmp_path)


# A gzip header holds the time, which would get into the names of the cases.
@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(idx([1, 2, 3]), mtime=0)[:-5],
                                     gzip.compress(bytes(1000), mtime=0)[:12] + b"\xff" * 20])
def test_malformed_gzip_is_named(mnist, tmp_path, content):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(mnist.DataError, match="labels.gz cannot be read"):
        mnist.read_idx(path, 1)


def test_images_of_two_sizes_are_refused(mnist, tmp_path):
    write_digits(tmp_path, prefix="t10k")
    write_digits(tmp_path, prefix="train", pixels=(4, 4))
    with pytest.raises(mnist.DataError, match=r"\(4, 4\) pixels, those to test on \(3, 4\)"):
        mnist.load(tmp_path)


@pytest.mark.parametrize("prepare, message", [
    (lambda folder: folder / "none", "is no folder"),
    (lambda folder: folder, "neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz"),
    (lambda folder: (write_digits(folder), folder)[1], "too few"),
])
def test_the_command_line_reports_bad_data_in_one_line(mnist, tmp_path, prepare, message):
    with pytest.raises(SystemExit) as stop:
        mnist.main(["--data", str(prepare(tmp_path))])
    assert str(stop.value).startswith("mnist.py: ") and message in str(stop.value)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize("options", [["--epochs", "0"], ["--batch-size", "-1"], ["--epochs", "x"]])
def test_the_command_line_refuses_senseless_options(mnist, options, capsys):
    with pytest.raises(SystemExit):
        mnist.parse_arguments(options)
    assert options[0] in capsys.readouterr().err


def test_every_example_is_documented():
    for path in EXAMPLES.glob("*.py"):
        assert load_example(path.stem).__doc__, path


def test_a_copy_elsewhere_needs_its_data(mnist, tmp_path):
    shutil.copy(EXAMPLES / "mnist.py", tmp_path)
    run = subprocess.run([sys.executable, str(tmp_path / "mnist.py")], capture_output=True,
                         text=True, cwd=tmp_path, timeout=120)
    assert run.returncode == 1 and "is no folder" in run.stderr
