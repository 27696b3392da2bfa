"""Train a network with two hidden layers of 256 units to read handwritten digits.

    python examples/mnist.py                     5,000 images that ship with the repository
    python examples/mnist.py --data DIR          the full MNIST: the four IDX files, gzipped or not

Shows loss and accuracy after each epoch, writes the learning curves and the weights of the first
layer as pictures, and ends with the error on images the network never saw.
"""

from __future__ import annotations

import argparse
import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import tetractys as tx
from tetractys import init, layers, nonlinearities, objectives, updates
from tetractys import tensor as T

SAMPLE = Path(__file__).resolve().parent / "data"
CLASSES = 10

# -- data ------------------------------------------------------------------------------------------


class DataError(Exception):
    """A file that is missing or is not what it should be."""


@dataclass(frozen=True)
class Digits:
    """Images ``(count, height, width) uint8`` and labels ``(count,) uint8``."""

    images: np.ndarray
    labels: np.ndarray


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Return the array of bytes an IDX file holds.

    The format: two zero bytes, the element type (8: unsigned byte), the number of axes, the sizes
    as big-endian 32-bit integers, the elements.

    Raises
    ------
    DataError
        If the file cannot be read, or is no such file with ``ndim`` axes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if content[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(f"{path} is no IDX file of bytes with {ndim} axes: it begins with "
                        f"{content[:4].hex(' ') or 'nothing'}, not 00 00 08 {ndim:02x}")
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(f"{path} ends within its header")
    sizes = np.frombuffer(content, ">u4", count=ndim, offset=4).tolist()
    if len(content) - start != math.prod(sizes):
        raise DataError(f"{path} declares {' x '.join(map(str, sizes))} bytes and holds "
                        f"{len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def find(folder: Path, stem: str) -> Path | None:
    """Return the file of this name in ``folder``, gzipped or not; None if there is neither."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def read_digits(folder: Path, prefix: str) -> Digits:
    """Return the images and labels of one of MNIST's two sets (``train`` or ``t10k``).

    Raises
    ------
    DataError
        If a file is missing or malformed, or the two do not belong together.
    """
    paths = []
    for stem in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path = find(folder, stem)
        if path is None:
            raise DataError(f"there is neither {stem} nor {stem}.gz in {folder}")
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise DataError(f"{paths[0]} has {len(images)} images, {paths[1]} {len(labels)} labels")
    if labels.size and labels.max() >= CLASSES:
        raise DataError(f"{paths[1]} has the label {labels.max()}; digits end at {CLASSES - 1}")
    return Digits(images, labels)


def load(folder: Path) -> tuple[Digits, Digits]:
    """Return what to train on and what to test on.

    A folder with the test set alone (the sample) is split in two halves.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    test = read_digits(folder, "t10k")
    if find(folder, "train-images-idx3-ubyte") is not None:
        train = read_digits(folder, "train")
    else:
        half = len(test.labels) // 2
        train = Digits(test.images[:half], test.labels[:half])
        test = Digits(test.images[half:], test.labels[half:])
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"the images to train on are {train.images.shape[1:]} pixels, those to "
                        f"test on {test.images.shape[1:]}")
    return train, test


# -- the network -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """The network and its compiled functions.

    Attributes
    ----------
    network : Layer
        The last layer.
    hidden : DenseLayer
        The first hidden layer, whose weights are drawn.
    rate : SharedVariable
        The learning rate.
    step, evaluate : callable
        ``(images, labels) -> loss, accuracy``; ``step`` also updates the parameters.
    """

    network: layers.Layer
    hidden: layers.DenseLayer
    rate: tx.SharedVariable
    step: tx.Function
    evaluate: tx.Function


def build(pixels: tuple[int, int], hidden_units: int = 256) -> Model:
    """Return the network for images of this size, and its compiled functions."""
    images = T.tensor("uint8", shape=(None, *pixels), name="images")
    labels = T.tensor("uint8", shape=(None,), name="labels")
    rate = tx.shared(np.float32(0.0), name="rate")

    network = layers.InputLayer((None, *pixels), T.cast(images, "float32") / 255)
    network = layers.DropoutLayer(network, p=0.1)
    network = hidden = layers.DenseLayer(network, hidden_units, W=init.HeNormal("relu"),
                                         name="hidden1")
    network = layers.DropoutLayer(network, p=0.3)
    network = layers.DenseLayer(network, hidden_units, W=init.HeNormal("relu"), name="hidden2")
    network = layers.DropoutLayer(network, p=0.3)
    network = layers.DenseLayer(network, CLASSES, nonlinearity=nonlinearities.softmax,
                                name="output")

    def loss_and_accuracy(deterministic: bool) -> list[T.Variable]:
        predictions = layers.get_output(network, deterministic=deterministic)
        return [objectives.categorical_crossentropy(predictions, labels).mean(),
                objectives.categorical_accuracy(predictions, labels).mean()]

    training = loss_and_accuracy(deterministic=False)
    parameters = layers.get_all_params(network, trainable=True)
    return Model(
        network, hidden, rate,
        step=tx.function([images, labels], training, name="step",
                         updates=updates.nesterov_momentum(training[0], parameters, rate)),
        evaluate=tx.function([images, labels], loss_and_accuracy(deterministic=True),
                             name="evaluate"))


@dataclass(frozen=True)
class Epoch:
    """Mean loss and accuracy over one epoch's training batches (with dropout), and on the test
    set after it (without)."""

    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


def train(model: Model, data: Digits, test: Digits, epochs: int, batch_size: int,
          learning_rate: float, seed: int) -> list[Epoch]:
    """Train the model and return how it went.

    The learning rate falls linearly to zero, a little after each epoch.  A last, smaller batch is
    left out; the order is new in each epoch.
    """
    rng = np.random.default_rng(seed)
    steps = len(data.labels) // batch_size
    history = []
    with tqdm(total=epochs * steps, unit="batch") as bar:
        for epoch in range(epochs):
            model.rate.set_value(np.float32(learning_rate * (1 - epoch / epochs)))
            results = []
            for batch in rng.permutation(len(data.labels))[:steps * batch_size].reshape(steps, -1):
                results.append(model.step(data.images[batch], data.labels[batch]))
                bar.update()
            train_loss, train_accuracy = np.mean(results, axis=0)
            test_loss, test_accuracy = model.evaluate(test.images, test.labels)
            history.append(Epoch(float(train_loss), float(train_accuracy),
                                 float(test_loss), float(test_accuracy)))
            bar.write(f"epoch {epoch + 1:3}/{epochs}   "
                      f"train loss {train_loss:.4f} accuracy {100 * train_accuracy:6.2f} %   "
                      f"test loss {test_loss:.4f} accuracy {100 * test_accuracy:6.2f} %")
    return history


# -- pictures --------------------------------------------------------------------------------------

def draw_curves(history: list[Epoch], path: Path) -> None:
    """Write loss and error by epoch as a picture."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, error = figure.subplots(1, 2)
    number = range(1, len(history) + 1)
    loss.plot(number, [epoch.train_loss for epoch in history], label="training (with dropout)")
    loss.plot(number, [epoch.test_loss for epoch in history], label="test")
    loss.set(xlabel="epoch", ylabel="cross-entropy", yscale="log")
    error.plot(number, [100 * (1 - epoch.train_accuracy) for epoch in history])
    error.plot(number, [100 * (1 - epoch.test_accuracy) for epoch in history])
    error.set(xlabel="epoch", ylabel="error, %", yscale="log")
    for axes in (loss, error):
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.legend()
    figure.savefig(path, dpi=120)


def draw_weights(weights: np.ndarray, pixels: tuple[int, int], path: Path,
                 columns: int = 16) -> None:
    """Write each unit's weights as a small picture: red positive, blue negative.

    Parameters
    ----------
    weights : (height * width, units) float
    pixels : (height, width)
    path : Path
    columns : int
        Units side by side.
    """
    height, width = pixels
    units = weights.shape[1]
    rows = math.ceil(units / columns)
    # One pixel of frame around each unit, left blank where there is no unit.
    sheet = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for unit in range(units):
        top, left = unit // columns * (height + 1), unit % columns * (width + 1)
        sheet[top:top + height, left:left + width] = weights[:, unit].reshape(pixels)
    limit = np.abs(weights).max()
    figure = Figure(figsize=(columns / 2, rows / 2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    figure.savefig(path, dpi=120)


# -- command line ----------------------------------------------------------------------------------

def positive(text: str) -> int:
    """Return a command line argument as a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=SAMPLE, metavar="DIR",
                        help="folder with MNIST's IDX files (default: the sample shipped)")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR",
                        help="folder for the pictures (default: the current one)")
    parser.add_argument("--epochs", type=positive, default=20, help="default %(default)s")
    parser.add_argument("--batch-size", type=positive, default=100, help="default %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Train, draw and report."""
    options = parse_arguments(arguments)
    try:
        data, test = load(options.data)
        if not len(test.labels) or len(data.labels) < options.batch_size:
            raise DataError(f"{options.data} has {len(data.labels)} images to train on and "
                            f"{len(test.labels)} to test on: too few")
    except DataError as error:
        raise SystemExit(f"mnist.py: {error}") from error
    tx.config.floatX = "float32"
    init.set_rng(options.seed)
    pixels = data.images.shape[1:]
    model = build(pixels)
    print(f"{layers.count_params(model.network):,} parameters, {len(data.labels):,} images")
    history = train(model, data, test, options.epochs, options.batch_size,
                    options.learning_rate, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    draw_curves(history, options.output / "mnist-curves.png")
    draw_weights(model.hidden.W.get_value(), pixels, options.output / "mnist-weights.png")
    print(f"test error {100 * (1 - history[-1].test_accuracy):.2f} %")


if __name__ == "__main__":
    main()
