"""Small nets trained on handwritten digits, flattened in any order: a test of the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from threads import torch_threads
from torch import nn
from torch.nn import functional

EPOCHS = 15
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """A net: two convolutions to a map of `sizes` (C, H, W), flattened in `order`, and a head.

    pool: whether the map is pooled to half of 6 × 6.
    """

    channels: int
    hidden: int
    order: str
    seed: int
    pool: bool = True

    @property
    def sizes(self) -> tuple[int, int, int]:
        side = 3 if self.pool else 6
        return self.channels, side, side

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.sizes))}-{self.order}-hidden{self.hidden}-seed{self.seed}"


class Net(nn.Module):
    """Reads digits of 8 × 8 pixels."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        c, h, w = recipe.sizes
        pool = [nn.MaxPool2d(2)] if recipe.pool else []
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, c, 3), nn.ReLU(), *pool
        )
        layers = [nn.Linear(c * h * w, recipe.hidden or 10)]
        layers += [nn.ReLU(), nn.Linear(recipe.hidden, 10)] if recipe.hidden else []
        self.classifier = nn.Sequential(*layers)
        self.axes = [1 + "CHW".index(axis) for axis in recipe.order]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.features(images).permute(0, *self.axes)
        return self.classifier(maps.flatten(1))


def untrained(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the net's state dict as it is initialised."""
    torch.manual_seed(recipe.seed)
    return Net(recipe).state_dict()


@torch_threads(1)
def trained(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the net's state dict after a second or so of training."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    targets = torch.tensor(labels)
    torch.manual_seed(recipe.seed)
    net = Net(recipe)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(images[batch]), targets[batch]).backward()
            optimizer.step()
    return net.state_dict()


RECIPES = [
    Recipe(channels, hidden, order, seed, pool=pool)
    for channels, hidden, pool in ((24, 64, True), (32, 0, True), (12, 48, False))
    for order, seed in (("CHW", 0), ("CHW", 1), ("HWC", 2), ("WHC", 3))
]
"""Three shapes of net, one of them with ten outputs only, in both families of orders."""
