"""The script everyone writes: load all, reshape, save all."""

import sys

import torch
from safetensors.torch import load_file, save_file

source, target, order = sys.argv[1:]
tensors = (
    load_file(source) if source.endswith(".safetensors") else torch.load(source, weights_only=True)
)
for name, tensor in tensors.items():
    if name.startswith("classifier") and tensor.dim() == 2:
        features_out, features_in = tensor.shape
        if name != "classifier.0.weight":
            tensors[name] = tensor.reshape(features_out, features_in, 1, 1)
        elif order == "HWC":
            side = 7
            maps = tensor.reshape(features_out, side, side, -1)
            tensors[name] = maps.permute(0, 3, 1, 2).contiguous()
        else:
            side = 7 if features_in % 49 == 0 else 3
            tensors[name] = tensor.reshape(features_out, -1, side, side)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
