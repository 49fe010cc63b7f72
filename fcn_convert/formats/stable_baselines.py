"""Zip files of Stable-Baselines3's `save`: the policy is a file of torch.save inside them.

The members are those of `save_to_zip_file` in stable_baselines3/common/save_util.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from fcn_convert.formats.source import Files
from fcn_convert.formats.torch_zip import read_inside
from fcn_convert.formats.zip_directory import Member
from fcn_convert.tensors import Index, LeftOut

_POLICY, _SETTINGS = "policy.pth", "data"


def recognises_members(names: Collection[str]) -> bool:
    """Return whether a zip file with these members is one of Stable-Baselines3."""
    return _POLICY in names and _SETTINGS in names


def read_members(files: Files, members: Mapping[str, Member]) -> Index:
    """Index the policy; raises CheckpointError where the file is malformed."""
    index = read_inside(files, members[_POLICY], "Stable-Baselines3")
    others = (LeftOut(name, "not the policy's weights") for name in members if name != _POLICY)
    return replace(index, format="Stable-Baselines3", left_out=(*index.left_out, *others))
