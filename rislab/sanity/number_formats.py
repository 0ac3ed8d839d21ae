"""Ways to train in a number format: four that are sound, four that only look sound, each with its tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rislab.model.network import Backbone, BeamPower, CovarianceNet, Head
from rislab.training.state import TrainState


@dataclass(frozen=True)
class FormatTolerance:
    """Levels that the worst window of a cell may not pass.

    Rounding errors of a forward stay the same size while the gradient shrinks with √NMSE, so that the levels of the
    gradient's errors grow with 1/√NMSE.
    """

    relative_error: float  # relative L2 of the gradient against float64, where the NMSE is 1
    alpha_error: float  # |α − 1| of the gradient against float64, where the NMSE is 1
    # share of the entries that flow back into the head's last layer below the smallest normal number of their format,
    # where bits are lost
    underflow: float = 1e-3
    stuck: float = 1e-3  # share of the weights that have a gradient and did not move; of this the median window counts


# Against float64 during training; checkup.gradients.GRADIENT_TOLERANCES are those of an accumulated gradient against
# one batch in the same format, with the weights of the start. About ten times the largest values of sound runs
# (classroom, five seeds; full, three): relative L2 · √NMSE 8.2e-16, 1.3e-6, 1.2e-3, 9.3e-3; |α − 1| · √NMSE 4.4e-16,
# 2.3e-7, 1.2e-4, 1.6e-3; underflow 9.8e-5; stuck 1.9e-5.
FORMAT_TOLERANCES = {
    "fp64": FormatTolerance(1e-14, 5e-15),
    "fp32": FormatTolerance(1e-5, 2e-6),
    "fp16": FormatTolerance(1e-2, 1e-3),
    "bf16": FormatTolerance(1e-1, 2e-2),
}


@dataclass(frozen=True)
class Mode:
    """One way to train in some number format."""

    name: str  # as in the table
    precision: str  # of the loop, see TrainConfig
    why: str  # what happens in it
    symptom: str  # what a user sees
    remedy: str  # what helps
    fails_from: int = 0  # fewest accumulation steps at which a cell is expected to be red; 0 for a sound mode: never
    wrap: Callable[[CovarianceNet], nn.Module] = lambda net: net  # makes its model of a CovarianceNet
    prepare: Callable[[TrainState], None] = lambda state: None  # changes the state of the run before the first window
    expected_as: str = ""  # precision whose tolerances apply; "" for that of the loop

    @property
    def sound(self) -> bool:
        """Whether every cell is expected to be green."""
        return self.fails_from == 0

    @property
    def tolerance(self) -> FormatTolerance:
        """Tolerances of its number format, or of the format in `expected_as`."""
        return FORMAT_TOLERANCES[self.expected_as or self.precision]


class Rounded(nn.Module):
    """A CovarianceNet whose backbone and head may be cast to a shorter format; maps and loss stay as they are."""

    def __init__(self, net: CovarianceNet) -> None:
        super().__init__()
        # Data follow the format of a model's first parameter, and there are no complex numbers in bfloat16.
        self.format = nn.Parameter(torch.empty(0), requires_grad=False)
        self.maps, self.backbone, self.head = net.maps, net.backbone, _head(net)

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """See CovarianceNet.forward()."""
        power = self.maps(snapshots, codes, channel)
        return self.head(self.backbone(power.to(self.head.linear.weight.dtype)))


class HandNormalised(nn.Module):
    """A CovarianceNet with a root mean square of beam powers written by hand, in the format of autocast.

    Beam powers are in units of one element's power: they carry the gain N of the surface, so that their sum of squares
    over G beams is at least G N², 108 864 for the classroom and above the 65504 that fp16 can hold.
    """

    def __init__(self, net: CovarianceNet) -> None:
        super().__init__()
        self.maps, self.backbone, self.head = net.maps, net.backbone, _head(net)
        self.gain = float(self.head.shape[0])

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """See CovarianceNet.forward()."""
        kind = snapshots.device.type
        with torch.autocast(kind, enabled=False):
            power = self.gain * self.maps(snapshots, codes, channel)  # [B, G]
        if torch.is_autocast_enabled(kind):
            power = power.to(torch.get_autocast_dtype(kind))
        level = power.square().sum(dim=-1, keepdim=True).sqrt() / math.sqrt(power.shape[-1])
        wide = torch.promote_types(power.dtype, torch.float32)
        return self.head(self.backbone((power / level).to(wide)))


def batch_normalised(net: CovarianceNet) -> CovarianceNet:
    """The network with BatchNorm in the place of its LayerNorm."""
    assert isinstance(net.maps, BeamPower)
    assert isinstance(net.backbone, Backbone)
    net.backbone.standardise = nn.BatchNorm1d(len(net.maps.atoms), affine=False)  # type: ignore[assignment]
    return net


def round_weights(state: TrainState) -> None:
    """Cast the weights of backbone and head to bfloat16; gradients and the optimiser's moments will follow them."""
    for part in ("backbone", "head"):
        state.model.get_submodule(part).to(torch.bfloat16)


def switch_scaler_off(state: TrainState) -> None:
    """Put a scaler that does nothing in the place of the state's own, as GradScaler(enabled=False) does."""
    state.scaler = torch.amp.GradScaler(torch.device(state.config.device).type, enabled=False)


MODES = {
    mode.name: mode
    for mode in (
        Mode(
            "fp64",
            "fp64",
            why="Everything in float64: the format of the reference.",
            symptom="None; what differs is the order of the sums.",
            remedy="Too slow and too large for anything but checking others.",
        ),
        Mode(
            "fp32",
            "fp32",
            why="Everything in float32: 24 bits, a range of 10^±38.",
            symptom="None.",
            remedy="None needed.",
        ),
        Mode(
            "bf16",
            "bf16",
            why="Autocast: layers in bfloat16 (8 bits, range of float32); weights, gradients and loss in float32.",
            symptom="A gradient that is right to two digits, with errors that average out.",
            remedy="None needed; no scaler either, since the range is that of float32.",
        ),
        Mode(
            "fp16",
            "fp16",
            why="Autocast: layers in float16 (11 bits, 6e-5 to 65504), with a scaler that lifts gradients.",
            symptom="A first few steps may be skipped while the scaler looks for its level.",
            remedy="None needed; count the skipped steps.",
        ),
        Mode(
            "pure bf16",
            "fp32",
            fails_from=1,
            why="Weights, gradients and moments in bfloat16: a step below half the last bit of a weight is lost.",
            symptom="The gradient looks right, and yet a large share of the weights does not move.",
            remedy="Keep the weights in float32 and let autocast shorten the layers, or round updates at random.",
            wrap=Rounded,
            prepare=round_weights,
            expected_as="bf16",
        ),
        Mode(
            "fp16 without scaler",
            "fp16",
            fails_from=1,
            why="Nothing lifts the gradients: below 6e-5 float16 loses bits, below 6e-8 all of them.",
            symptom="None at first: large entries hide it. The smaller the gradients, the larger the share.",
            remedy="Use a GradScaler and check that it is enabled, or use bfloat16.",
            prepare=switch_scaler_off,
        ),
        Mode(
            "sum of squares in fp16",
            "fp16",
            fails_from=1,
            why="A root mean square by hand: its sum of squares passes 65504, is infinite, and x / ∞ is 0.",
            symptom="No NaN, no warning, no skipped step: the network sees the same input for every scene.",
            remedy="Sum squares in float32, or divide by the largest entry first; layers of torch do so by themselves.",
            wrap=HandNormalised,
        ),
        Mode(
            "BatchNorm",
            "fp32",
            fails_from=2,
            why="Each micro-batch is normalised by statistics of its own: its scenes are no longer independent.",
            symptom="Against one batch the gradient is wrong; against a replay of the same micro-batches it is right.",
            remedy="The loop is sound. Use LayerNorm or GroupNorm, or accept another model for each micro-batch size.",
            wrap=batch_normalised,
        ),
    )
}


def _head(net: CovarianceNet) -> Head:
    assert isinstance(net.head, Head)
    return net.head
