"""Weights as files: safetensors, with what they were trained on in the header, and those that come with the lab."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rislab import files
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError, check_choice
from rislab.model.designs import design_in, renamed
from rislab.model.network import CovarianceNet, design_of

SHIPPED = Path(__file__).parent / "weights"
FORMAT = "rislab weights 1"


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
    files.replace(Path(path), to_bytes(tensors, header))


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
        raise InputError(f"{path} could not be read: {str(error).splitlines()[0]}") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path} holds no weights of a rislab network; allowed: files that rislab wrote")
    header["design"] = design_in(path, header.get("design"))
    try:
        scenes = SceneConfig.from_dict(json.loads(header["scenes"]))
        model = CovarianceNet.build(scenes, design=header["design"])
        model.load_state_dict(renamed(tensors, model.state_dict()))
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return model.eval(), scenes, header
