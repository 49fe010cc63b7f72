"""Checkpoints by the libraries that write them, loaded on both sides, with answers compared."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn_convert.conversion import convert

pytestmark = [
    pytest.mark.heavy,  # the libraries of the extra dev-heavy
    pytest.mark.filterwarnings("ignore"),  # theirs
]

IMAGES = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 5))


def answers(state: dict[str, Tensor], remove: str = "") -> Tensor:
    """Load strictly into the fully convolutional network, and run it."""
    fcn = net()
    fcn[4], fcn[5], fcn[7] = nn.Identity(), nn.Conv2d(4, 7, (3, 2)), nn.Conv2d(7, 5, 1)
    fcn.load_state_dict({n.removeprefix(remove): t for n, t in state.items()}, strict=True)
    return fcn.eval()(IMAGES).flatten(1)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_huggingface_hub_shards(tmp_path: Path, *, safe: bool) -> None:
    hub = import_module("huggingface_hub")
    state = net().state_dict()
    (tmp_path / "net").mkdir()
    hub.save_torch_state_dict(state, tmp_path / "net", max_shard_size=600, safe_serialization=safe)
    count = len(
        hub.split_torch_state_dict_into_shards(state, max_shard_size=600).filename_to_tensors
    )
    assert count > 1
    convert(tmp_path / "net", {"feature_map": [4, 3, 2]})
    out = tmp_path / "net.fcn"
    assert len(list(out.glob("*.safetensors"))) == count
    # As the library loads a folder: it looks for the index by its name.
    fcn = net()
    fcn[4], fcn[5], fcn[7] = nn.Identity(), nn.Conv2d(4, 7, (3, 2)), nn.Conv2d(7, 5, 1)
    result = hub.load_torch_model(fcn, out, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.allclose(fcn.eval()(IMAGES).flatten(1), net().eval()(IMAGES), atol=1e-6)


def module_of(lightning: Any) -> Any:
    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, settings: argparse.Namespace) -> None:  # noqa: ARG002 - is saved
            super().__init__()
            self.save_hyperparameters()
            self.model = net()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    return Module(argparse.Namespace(rate=0.1, layers=[1, 2]))


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = import_module("pytorch_lightning")
    monkeypatch.chdir(tmp_path)
    module = module_of(lightning)
    data = torch.utils.data.TensorDataset(IMAGES, torch.tensor([1, 4]))
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
    trainer.save_checkpoint("net.ckpt")
    saved = torch.load("net.ckpt", weights_only=False)
    assert isinstance(saved["hyper_parameters"]["settings"], argparse.Namespace)
    convert("net.ckpt", {"feature_map": [4, 3, 2], "rename": {"model": ""}}, "o.safetensors")
    expected = module.model.eval()(IMAGES)
    assert not torch.allclose(expected, net().eval()(IMAGES), atol=1e-3)  # it has learnt
    assert torch.allclose(answers(load_file("o.safetensors")), expected, atol=1e-6)


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the extra dev-heavy has MLX for Linux on x86-64 only",
)
@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_mlx(tmp_path: Path, form: str) -> None:
    mlx = import_module("mlx.core")
    layers = import_module("mlx.nn")
    mlx.random.seed(3)
    flatten: Callable[[Any], Any] = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731 - a layer
    model = layers.Sequential(
        layers.Conv2d(3, 4, 3),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.BatchNorm(4),
        flatten,
        layers.Linear(24, 7),
        layers.ReLU(),
        layers.Linear(7, 5),
    )
    images = mlx.array(IMAGES.permute(0, 2, 3, 1).numpy())
    model(images)  # in training: the norm's statistics move
    model.eval()
    path = tmp_path / f"m.{form}"
    model.save_weights(str(path))
    expected = torch.tensor(model(images).tolist())
    convert(path, {"layout": "mlx", "feature_map": [4, 3, 2]}, tmp_path / "o.safetensors")
    state = {n.removeprefix("layers."): t for n, t in load_file(tmp_path / "o.safetensors").items()}
    assert torch.allclose(answers(state), expected, atol=1e-5)
