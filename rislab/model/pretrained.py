"""Weights as safetensors files, whose header says what they were trained on; and the weights that come with the lab."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rislab import files
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError, check_choice, error_text
from rislab.model.designs import design_in
from rislab.model.network import CovarianceNet, design_of

SHIPPED = Path(__file__).parent / "weights"
FORMAT = "rislab weights 3"
# Weights of these formats no longer fit the designs with a PowerHead.
FORMER_FORMATS = ("rislab weights 1", "rislab weights 2")


def save(path: Path | str, model: CovarianceNet, scenes: SceneConfig, notes: Mapping[str, str]) -> None:
    """Write the weights of a network, all or nothing.

    Args:
        path: of the file.
        model: built for `scenes`.
        scenes: that it was trained on.
        notes: further entries of the header, such as how it was trained.

    Raises:
        InputError: if the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {**notes, "format": FORMAT, "design": design_of(model), "scenes": json.dumps(scenes.to_dict())}
    header["digest"] = digest(tensors)
    files.replace(Path(path), to_bytes(tensors, header))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and numbers of tensors."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def load(source: Path | str, preset: str = "full") -> tuple[CovarianceNet, SceneConfig, dict[str, str]]:
    """Read weights.

    Args:
        source: path of a file that save() wrote, or "shipped" for those that come with the lab.
        preset: of the shipped weights.

    Returns:
        The network, the scenes that it was trained on, and the header of the file.

    Raises:
        InputError: for a file that cannot be read or is damaged, and for a preset without shipped weights.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(source)
    if str(source) == "shipped":
        check_choice("preset", preset, sorted(one.stem for one in SHIPPED.glob("*.safetensors")))
        path = SHIPPED / f"{preset}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} could not be read: {error_text(error)}") from error
    former = header.get("format") in FORMER_FORMATS
    if not former and header.get("format") != FORMAT:
        raise InputError(f"{path} holds no weights of a rislab network; allowed: files that rislab wrote")
    header["design"] = design_in(path, header.get("design"))
    if former and header["design"] != "memoriser":
        raise InputError(f"{path} is of an older version; allowed: files of this version (train it again)")
    try:
        scenes = SceneConfig.from_dict(json.loads(header["scenes"]))
        model = CovarianceNet.build(scenes, design=header["design"])
        model.load_state_dict(tensors)
        if not former and header["digest"] != digest(tensors):
            raise ValueError("its numbers are not those that were written")
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {error_text(error)}") from error
    return model.eval(), scenes, header
