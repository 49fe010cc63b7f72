"""Makes the benchmark's files: VGG-16's shapes with random weights, and many small checkpoints."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

TINY = (10, 1_000, 10_000, 100_000)
PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(widening: int = 1) -> dict[str, torch.Tensor]:
    """Return VGG-16's state dict; widening multiplies the outputs of the first Dense layers."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    channels, place = 3, 0
    for width in PLAN:
        if width:
            shape = (width, channels, 3, 3)
            tensors[f"features.{place}.weight"] = torch.randn(shape, generator=generator)
            tensors[f"features.{place}.bias"] = torch.randn(width, generator=generator)
            channels = width
        place += 2 if width else 1
    sizes = (25088, 4096 * widening, 4096, 1000)
    for place, features_in, features_out in zip((0, 3, 6), sizes[:-1], sizes[1:], strict=True):
        weight = torch.randn((features_out, features_in), generator=generator)
        tensors[f"classifier.{place}.weight"] = weight
        tensors[f"classifier.{place}.bias"] = torch.randn(features_out, generator=generator)
    return tensors


def small(seed: int) -> dict[str, torch.Tensor]:
    """Return the state dict of a small LeNet."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "features.0.weight": (16, 1, 3, 3),
        "classifier.0.weight": (64, 144),
        "classifier.0.bias": (64,),
        "classifier.2.weight": (10, 64),
        "classifier.2.bias": (10,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def tiny(count: int) -> dict[str, torch.Tensor]:
    """Return a Dense layer among so many tensors of four numbers."""
    tensors = {f"blocks.{place}.scale": torch.zeros(4) for place in range(count)}
    return {**tensors, "fc.weight": torch.ones(10, 36)}


def main() -> None:
    """Write everything that is not there yet."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    (folder / "chw.yaml").write_text("feature_map: [512, 7, 7]\n")
    (folder / "hwc.yaml").write_text("feature_map: [512, 7, 7]\nflatten: HWC\n")
    (folder / "tiny.yaml").write_text("feature_map: [4, 3, 3]\n")
    if not (folder / "vgg16.pth").exists():
        tensors = vgg16()
        save_file(tensors, folder / "vgg16.safetensors")
        torch.save(tensors, folder / "vgg16.pth")
        dense = {n: t.T.contiguous().T for n, t in tensors.items() if t.dim() == 2}
        torch.save(tensors | dense, folder / "vgg16-columns.pth")
        tensors = vgg16(widening=2)
        save_file(tensors, folder / "vgg16-twice.safetensors")
        torch.save(tensors, folder / "vgg16-twice.pth")
    save_file(tiny(10) | {"filling": torch.zeros(250_000)}, folder / "one-mb.safetensors")
    for number in TINY:
        save_file(tiny(number), folder / f"tiny-{number}.safetensors")
    (folder / "small").mkdir(exist_ok=True)
    for seed in range(count):
        save_file(small(seed), folder / "small" / f"{seed:03}.safetensors")


if __name__ == "__main__":
    main()
