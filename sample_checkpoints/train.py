"""Train the sample checkpoints on scikit-learn's handwritten digits, the same bytes on each run.

`python train.py [FOLDER]` writes four checkpoints, each with its spec beside it. Every net comes
twice: as it was trained, with a Dense head, and fully convolutional, with the same parameter
names. No net pads, so that each cell of a fully convolutional output is exactly what the Dense net
says of the window of 8 x 8 pixels (8 steps for the sequence net) that starts at the cell's index
times the net's stride.
"""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 0
CLASSES = 10
EPOCHS = 40
BATCH = 32
LEARNING_RATE = 0.02
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


class Digits(NamedTuple):
    """Images, (N, 1, 8, 8) float32 from 0 (paper) to 1 (ink), and their digits, (N,) int64."""

    images: Tensor
    labels: Tensor


def split_digits() -> tuple[Digits, Digits]:
    """Return the 1347 digits to train on and the 450 held back, every class in proportion."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(
        images.numpy(), labels, test_size=450, random_state=SEED, stratify=labels
    )
    train_images, held_images, train_labels, held_labels = map(torch.tensor, parts)
    return Digits(train_images, train_labels), Digits(held_images, held_labels)


def as_images(images: Tensor) -> Tensor:
    """Return the images as they are, (N, 1, H, W)."""
    return images


def as_sequences(images: Tensor) -> Tensor:
    """Read images of 8 columns from top to bottom: (N, 1, H, 8) to 8 channels of H steps."""
    return images.squeeze(1).transpose(1, 2)


class LeNet(nn.Module):
    """A small LeNet: (N, 1, 8, 8) to logits (N, 10) by a map of 16 x 3 x 3; stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 2), nn.ReLU(), nn.Conv2d(8, 16, 2), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * 3 * 3, 84), nn.ReLU(), nn.Linear(84, CLASSES)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (N, 1, 8, 8); where fully convolutional, (N, 1, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class LeNetFCN(LeNet):
    """LeNet made fully convolutional: (N, 1, H, W) to (N, 10, (H - 8) // 2 + 1, likewise W)."""

    def __init__(self) -> None:
        super().__init__()
        # Identity stands where Flatten was, so that the names stay.
        self.classifier = nn.Sequential(
            nn.Identity(), nn.Conv2d(16, 84, (3, 3)), nn.ReLU(), nn.Conv2d(84, CLASSES, 1)
        )


class VGG(nn.Module):
    """A small VGG: (N, 1, 8, 8) to logits (N, 10) by a map of 64 x 2 x 2; stride 2.

    Unlike VGG's own, its convolutions do not pad: what slides is then exact at every cell.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * 2 * 2, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (N, 1, 8, 8)."""
        logits: Tensor = self.classifier(torch.flatten(self.features(images), 1))
        return logits


class VGGFCN(VGG):
    """VGG made fully convolutional: (N, 1, H, W) to (N, 10, (H - 8) // 2 + 1, likewise W)."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Conv2d(64, 128, (2, 2)),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(128, 128, 1),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(128, CLASSES, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify every window of images, (N, 1, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class TwoHeads(nn.Module):
    """Digit and parity from one map, 24 x 2 x 3, flattened W, H, C as in facenet-pytorch's MTCNN.

    (N, 1, 8, 8) to logits (N, 12): the ten digits, then even and odd; stride 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, (3, 2)),
            nn.PReLU(16),
            nn.Conv2d(16, 24, (3, 2)),
            nn.PReLU(24),
            nn.MaxPool2d(2),
        )
        self.digit = nn.Sequential(
            nn.Linear(24 * 2 * 3, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES)
        )
        self.parity = nn.Sequential(
            nn.Linear(24 * 2 * 3, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify images, (N, 1, 8, 8)."""
        maps: Tensor = self.features(images)
        flat = maps.permute(0, 3, 2, 1).contiguous().view(len(maps), -1)
        return torch.cat((self.digit(flat), self.parity(flat)), dim=1)


class TwoHeadsFCN(TwoHeads):
    """TwoHeads made fully convolutional: (N, 1, H, W) to (N, 12, (H - 8) // 2 + 1, likewise W)."""

    def __init__(self) -> None:
        super().__init__()
        self.digit = nn.Sequential(
            nn.Conv2d(24, 64, (2, 3)), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, CLASSES, 1)
        )
        self.parity = nn.Sequential(
            nn.Conv2d(24, 32, (2, 3)), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 2, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Classify every window of images, (N, 1, H, W)."""
        maps = self.features(images)
        return torch.cat((self.digit(maps), self.parity(maps)), dim=1)


class SequenceNet(nn.Module):
    """A net on sequences: (N, 8, 8 steps) to logits (N, 10) by a map of 48 x 4; stride 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(8, 32, 3), nn.ReLU(), nn.Conv1d(32, 48, 3), nn.ReLU()
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(48 * 4, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )

    def forward(self, sequences: Tensor) -> Tensor:
        """Classify sequences, (N, 8, 8); where fully convolutional, (N, 8, L)."""
        logits: Tensor = self.classifier(self.features(sequences))
        return logits


class SequenceNetFCN(SequenceNet):
    """SequenceNet made fully convolutional: (N, 8, L) to (N, 10, L - 7)."""

    def __init__(self) -> None:
        super().__init__()
        # Identity stands where Flatten was, so that the names stay.
        self.classifier = nn.Sequential(
            nn.Identity(), nn.Conv1d(48, 64, 4), nn.ReLU(), nn.Conv1d(64, CLASSES, 1)
        )


class Trained(NamedTuple):
    """A net in evaluation mode, and the optimizer that trained it."""

    net: nn.Module
    optimizer: torch.optim.Optimizer


def save_zip(trained: Trained, path: Path) -> None:
    """Write a bare state dict as torch does since 1.6."""
    torch.save(trained.net.state_dict(), path)


def save_training(trained: Trained, path: Path) -> None:
    """Write what one needs to go on training: weights, optimizer, epoch and hyper-parameters."""
    checkpoint = {
        "epoch": EPOCHS,
        "state_dict": trained.net.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "hyper_parameters": {"lr": LEARNING_RATE, "momentum": MOMENTUM, "batch_size": BATCH},
    }
    torch.save(checkpoint, path)


def save_legacy(trained: Trained, path: Path) -> None:
    """Write a bare state dict as torch did before 1.6, its storages named "0", "1", ....

    torch itself names and sorts them by their addresses in memory, which change with each run.
    The file is its magic, version and system pickles, the state dict, the names, and the values.
    """
    tensors = trained.net.state_dict()
    stream = io.BytesIO()
    torch.save(tensors, stream, _use_new_zipfile_serialization=False)
    stream.seek(0)
    for _ in range(3):
        _pickled_strings(stream)
    start = stream.tell()
    strings = _pickled_strings(stream)
    head, model = stream.getvalue()[:start], stream.getvalue()[start : stream.tell()]
    addresses = set(_pickled_strings(stream))
    in_order = [string for string in strings if string in addresses]
    names = [str(number) for number in range(len(tensors))]
    for address, name in zip(in_order, names, strict=True):
        model = model.replace(_pickled(address), _pickled(name))
    values = b"".join(
        tensor.numel().to_bytes(8, "little") + tensor.numpy().tobytes()
        for tensor in tensors.values()
    )
    path.write_bytes(head + model + pickle.dumps(names, protocol=2) + values)


def _pickled_strings(stream: io.BytesIO) -> list[str]:
    """Read one pickle and return its strings; the next one starts where the stream is left."""
    operations = pickletools.genops(stream)
    return [str(value) for opcode, value, _ in operations if opcode.name == "BINUNICODE"]


def _pickled(string: str) -> bytes:
    return b"X" + len(string).to_bytes(4, "little") + string.encode()


def save_bfloat16(trained: Trained, path: Path) -> None:
    """Write a bare state dict in bfloat16 as safetensors."""
    tensors = {name: tensor.bfloat16() for name, tensor in trained.net.state_dict().items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))


class Sample(NamedTuple):
    """A checkpoint to make: its file, its nets, its spec, and what the nets read.

    `stride` is the step in pixels, or in steps of a sequence, from one output cell to the next;
    the window is 8 on every axis. `dtype` is what the file holds its weights in.
    """

    file: str
    dense: Callable[[], nn.Module]
    convolutional: Callable[[], nn.Module]
    save: Callable[[Trained, Path], None]
    spec: str
    inputs: Callable[[Tensor], Tensor] = as_images
    stride: int = 2
    dtype: torch.dtype = torch.float32


SAMPLES = (
    Sample(
        file="lenet.pth",
        dense=LeNet,
        convolutional=LeNetFCN,
        save=save_zip,
        spec="# A LeNet-like net: Flatten, Linear, ReLU, Linear.\nfeature_map: [16, 3, 3]\n",
    ),
    Sample(
        file="vgg.ckpt",
        dense=VGG,
        convolutional=VGGFCN,
        save=save_training,
        spec="# A VGG-like net, its weights under `state_dict` in a training checkpoint.\n"
        "feature_map: [64, 2, 2]\n",
    ),
    Sample(
        file="two_heads.pth",
        dense=TwoHeads,
        convolutional=TwoHeadsFCN,
        save=save_legacy,
        spec="# An MTCNN-like net: two heads on one map, permuted to W, H, C and flattened.\n"
        "feature_map: {C: 24, H: 2, W: 3}\n"
        "flatten: WHC\n"
        "dense: [digit.0, parity.0, digit.3, parity.3]\n",
    ),
    Sample(
        file="sequence.safetensors",
        dense=SequenceNet,
        convolutional=SequenceNetFCN,
        save=save_bfloat16,
        spec="# A 1-D net on sequences of 8 steps, in bfloat16.\nfeature_map: [48, 4]\n",
        inputs=as_sequences,
        stride=1,
        dtype=torch.bfloat16,
    ),
)


def answers(logits: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pair each head's logits, (N, classes), with the right classes, (N,): digit, then parity."""
    pairs = [(logits[:, :CLASSES], labels)]
    if logits.shape[1] > CLASSES:
        pairs.append((logits[:, CLASSES:], labels % 2))
    return pairs


def train(sample: Sample, digits: Digits) -> Trained:
    """Train a sample's Dense net, and round its weights to the dtype of the sample's file."""
    torch.manual_seed(SEED)
    net = sample.dense()
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    inputs = sample.inputs(digits.images)
    for _ in range(EPOCHS):
        order = torch.randperm(len(inputs))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            pairs = answers(net(inputs[batch]), digits.labels[batch])
            loss = torch.stack([functional.cross_entropy(*pair) for pair in pairs]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch 2.13 leaves it so
            optimizer.step()
    return Trained(net.to(sample.dtype).float().eval(), optimizer)


@torch.no_grad()
def accuracies(sample: Sample, net: nn.Module, digits: Digits) -> list[float]:
    """Return each head's share of right answers, from 0 to 1."""
    pairs = answers(net(sample.inputs(digits.images)), digits.labels)
    return [(logits.argmax(1) == right).float().mean().item() for logits, right in pairs]


def main() -> None:
    """Train and write every sample, and print how well each does on the digits held back."""
    parser = argparse.ArgumentParser(description="Train the sample checkpoints.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    digits, held_back = split_digits()
    for sample in SAMPLES:
        start = time.perf_counter()
        trained = train(sample, digits)
        path = folder / sample.file
        sample.save(trained, path)
        path.with_suffix(".yaml").write_text(sample.spec, encoding="utf-8")
        shares = " and ".join(
            f"{share:.1%}" for share in accuracies(sample, trained.net, held_back)
        )
        seconds = time.perf_counter() - start
        print(f"{path.name}: {shares} of {len(held_back.labels)} held-back digits, {seconds:.0f} s")


if __name__ == "__main__":
    main()
