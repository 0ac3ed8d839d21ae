"""CovarianceNet: from snapshots, codes and channel to a factor F of the RIS-domain covariance.

The inputs determine the target: back-projections c_l* ⊙ (H^H W y_l) carry the field to the surface, matched filters on
the steering manifold turn it into maps of beam power, and those maps do not depend on the sources' phases. What the
network learns is the step from a few noisy maps to the sources behind them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rislab.data.covariance import back_project, beam_power
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.model.designs import DESIGNS
from rislab.model.unrolled import FEATURES, Pursuit, default_shape
from rislab.rng import GLOBAL_RNG_LOCK


class BeamPower(nn.Module):
    """Beam-power maps of the back-projections: mean over l of |a_g^H x_l|² on a (sin φ, sin θ, 1/r) grid.

    Args:
        config: of the scenes; gives surface, field of view and wavefront.
        shape: grid points (P, Q, R).
        ridge: see covariance.back_project().
    """

    atoms: Tensor

    def __init__(self, config: SceneConfig, shape: tuple[int, int, int], ridge: float) -> None:
        super().__init__()
        atoms = config.grid(shape, spacing="sine").steering(torch.complex128)  # [G, N]
        self.ridge = ridge
        # Real and imaginary parts apart: module.to(dtype) keeps both. Stored in float64 to serve fp64 runs exactly.
        self.register_buffer("atoms", torch.view_as_real(atoms), persistent=False)

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """[B,L,M], [B,L,N], [B,M,N] complex to [B,G] real, mean 1 over the grid; in the precision of the inputs."""
        fields = back_project(snapshots, codes, channel, ridge=self.ridge)  # [B, N, L]
        power = beam_power(fields, torch.view_as_complex(self.atoms).to(fields.dtype))  # [B, G]
        smallest = torch.finfo(power.dtype).tiny
        return power / power.mean(dim=-1, keepdim=True).clamp_min(smallest)


class Backbone(nn.Module):
    """Sinusoidal random features of the standardised logarithmic beam-power maps, trained along.

    A layer sin(W f + b) with a broad W makes the hidden vectors of different scenes nearly orthogonal, so that the
    head can answer for each scene without disturbing the others: what an overfit check asks of a network
    (A. Rahimi and B. Recht, Random features for large-scale kernel machines, NIPS 2007).

    Args:
        beams: number of grid points G of the maps.
        width: number of hidden features.
        bandwidth: standard deviation of W f at the start, radians; wider separates scenes more.
    """

    def __init__(self, beams: int, width: int, bandwidth: float = 1.5) -> None:
        super().__init__()
        self.standardise = nn.LayerNorm(beams, elementwise_affine=False)
        self.linear = nn.Linear(beams, width)
        nn.init.normal_(self.linear.weight, std=bandwidth / math.sqrt(beams))
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, power: Tensor) -> Tensor:
        """[B,G] to [B,width]."""
        # The floor keeps an empty beam finite; it lies 40 dB below the mean.
        return torch.sin(self.linear(self.standardise(torch.log(power + 1e-4))))


class Head(nn.Module):
    """Linear map to the real and imaginary parts of the factor.

    Args:
        width: number of hidden features.
        elements: N, of the surface.
        sources: Kmax, columns of the factor.
    """

    def __init__(self, width: int, elements: int, sources: int) -> None:
        super().__init__()
        self.shape = (elements, sources, 2)
        self.linear = nn.Linear(width, elements * sources * 2)
        # A small start: the untrained covariance has NMSE near the zero line, and no scene begins far above it.
        nn.init.uniform_(self.linear.weight, -0.4 / math.sqrt(width), 0.4 / math.sqrt(width))
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B,width] to the factor [B,N,Kmax], complex, in float32 or better."""
        raw = self.linear(hidden)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return torch.view_as_complex(raw.reshape(-1, *self.shape))


class PowerHead(nn.Module):
    """Power of each candidate position, from the features of all of them: an MLP-Mixer with a softmax at its end.

    The softmax starts from SourcePaths.log_weights, the weight of each fit under each law of the powers. The network
    raises or lowers whole fits and learns how much their likelihoods count; within a fit it changes nothing, so that
    equal powers come out equal. One more share stands for no source: powers add up to less than N, and are small where
    the network is not sure. Untrained, that share is nearly everything.

    Args:
        candidates: C = 1 + 2 + …, see SourcePaths.
        features: F, of each candidate.
        width: of the hidden layers.
        elements: N, of the surface.
    """

    NO_SOURCE_AT_START = 6.0
    # Makes one optimiser step move that score as far as ten would; else "no source" keeps some power for long.
    NO_SOURCE_SCALE = 10.0

    same_fit: Tensor

    def __init__(self, candidates: int, features: int, width: int, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.embed = nn.Linear(features, width)
        self.embedding = nn.Parameter(0.5 * torch.randn(candidates, width))
        self.token_mixers = nn.ModuleList(nn.Linear(candidates, candidates) for _ in range(2))
        self.channel_mixers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.score = nn.Linear(width, 1)
        nn.init.normal_(self.score.weight, std=0.02)
        self.trust = nn.Parameter(torch.ones(()))
        self.no_source = nn.Parameter(torch.tensor(self.NO_SOURCE_AT_START / self.NO_SOURCE_SCALE))
        most = (math.isqrt(8 * candidates + 1) - 1) // 2
        blocks = torch.block_diag(*(torch.ones(count, count) for count in range(1, most + 1)))  # [C, C]
        self.register_buffer("same_fit", blocks, persistent=False)

    def forward(self, features: Tensor, log_weights: Tensor) -> Tensor:
        """[B,C,F] and [B,C,3] to powers [B,C], in float32 or better."""
        hidden = self.embed(features) + self.embedding  # [B, C, width]
        for token_mixer, channel_mixer in zip(self.token_mixers, self.channel_mixers, strict=True):
            hidden = hidden + torch.tanh(token_mixer(hidden.mT)).mT
            hidden = hidden + channel_mixer(hidden)
        scores = self.score(hidden)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        with torch.autocast(features.device.type, enabled=False):
            of_fit = self.same_fit.to(scores) / self.same_fit.to(scores).sum(-1, keepdim=True) @ scores  # [B, C, 1]
            likely = (self.same_fit.to(log_weights) @ log_weights.exp().sum(-1, keepdim=True)).log()
        scores = log_weights + (self.trust - 1) * likely + of_fit
        no_source = (self.NO_SOURCE_SCALE * self.no_source).to(scores.dtype).expand(len(scores), 1)
        shares = torch.softmax(torch.cat([scores.flatten(1), no_source], dim=-1), dim=-1)[:, :-1]
        return self.elements * shares.reshape(scores.shape).sum(-1)


class CovarianceNet(nn.Module):
    """Network with a backbone and a head that predicts a factor F of the RIS-domain covariance R = F F^H.

    Only its real-valued layers run under autocast; complex arithmetic stays in the precision of the inputs.

    Args:
        backbone: module from beam-power maps [B,G] to hidden features.
        head: module from hidden features to the factor [B,N,Kmax], complex.
        maps: module from (snapshots, codes, channel) to beam-power maps [B,G]; has no trainable parameters.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps
        self.backbone = backbone
        self.head = head

    @classmethod
    def build(
        cls,
        config: SceneConfig,
        *,
        seed: int = 0,
        design: str = "memoriser",
        width: int = 512,
        beams: tuple[int, int, int] | None = None,
        ridge: float = 0.1,
    ) -> CovarianceNet:
        """A network for a scene configuration, its weights drawn from `seed` alone.

        Args:
            config: of the scenes.
            seed: of the weights.
            design: "memoriser" is CovarianceNet itself, which sees beam-power maps alone and memorises scenes;
                "unrolled" is an UnrolledNet; "unrolled+residual" is an UnrolledResidualNet.
            width: hidden features of the backbone, 1 .. 4096.
            beams: grid points (P, Q, R) of its maps; None is default_beams().
            ridge: see covariance.back_project().

        Raises:
            InputError: for a seed, a design or a width that is not allowed, and for a single antenna, which unknown
                waveforms explain, with an unrolled design.
        """
        check_number("seed", seed, 0, 2**63 - 1, integer=True)
        check_choice("design", design, DESIGNS)
        check_number("width", width, 1, 4096, integer=True)
        maps = BeamPower(config, beams or default_beams(config), ridge)
        with GLOBAL_RNG_LOCK, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone(maps.atoms.shape[0], width)
            head = Head(width, config.elements, config.sources[1])
            if design == "memoriser":
                return cls(backbone, head, maps)
            if config.antennas < 2:
                raise InputError(f"antennas is {config.antennas}; allowed: at least 2, or the design 'memoriser'")
            pursuit = Pursuit(config, default_shape(config))
            power_head = PowerHead(pursuit.candidates, FEATURES, 64, config.elements)
        if design == "unrolled":
            return UnrolledNet(pursuit, power_head)
        return UnrolledResidualNet(backbone, head, maps, pursuit, power_head)

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F of the covariance.

        Args:
            snapshots: [B,L,M], complex64 or complex128.
            codes: [B,L,N], complex, phase profiles of the surface.
            channel: [B,M,N], complex, from surface to antennas.

        Returns:
            [B,N,Kmax], complex64 or better.
        """
        with torch.autocast(snapshots.device.type, enabled=False):
            power = self.maps(snapshots, codes, channel)
        return self.head(self.backbone(power))

    def predict(self, batch: SceneBatch) -> Tensor:
        """Factor [B,N,Kmax] for a batch, without gradients, in eval mode; the mode is put back afterwards.

        The batch is brought to the device and dtype of the weights; the factor stays there.
        """
        batch = to_module_device(batch, self)
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(batch.snapshots, batch.codes, batch.channel)
        finally:
            self.train(training)


class UnrolledNet(CovarianceNet):
    """Candidate positions from an unrolled matching pursuit, each with a learned power: F = [√p_c a_c].

    Args:
        pursuit: finds the candidates; has nothing to train.
        power_head: gives each a power.
    """

    # Share of N that each candidate has at least, so that a subspace of any number of sources is defined.
    SMALLEST_SHARE = 3e-5

    def __init__(self, pursuit: Pursuit, power_head: PowerHead) -> None:
        nn.Module.__init__(self)
        self.pursuit, self.power_head = pursuit, power_head

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F, [B,N,C]; its last columns belong to the fit with the most sources."""
        with torch.autocast(snapshots.device.type, enabled=False):
            paths = self.pursuit(snapshots, codes, channel)
        power = self.power_head(paths.features, paths.log_weights) + self.SMALLEST_SHARE * self.power_head.elements
        return paths.factor * power.sqrt().unsqueeze(-2)


class UnrolledResidualNet(UnrolledNet):
    """UnrolledNet whose last columns have the factor of a memoriser added, times a small constant.

    The memoriser contributes little on fresh scenes, and enough to memorise a set. The modules are those of
    CovarianceNet and UnrolledNet.
    """

    # Small, since on fresh scenes the memoriser has to learn to contribute nothing.
    RESIDUAL_SCALE = 0.1

    def __init__(
        self, backbone: nn.Module, head: nn.Module, maps: nn.Module, pursuit: Pursuit, power_head: PowerHead
    ) -> None:
        super().__init__(pursuit, power_head)
        self.maps, self.backbone, self.head = maps, backbone, head

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F, [B,N,C]."""
        factor = super().forward(snapshots, codes, channel)
        residual = self.RESIDUAL_SCALE * CovarianceNet.forward(self, snapshots, codes, channel)  # [B, N, Kmax]
        first = factor.shape[-1] - residual.shape[-1]
        return torch.cat([factor[..., :first], factor[..., first:] + residual], dim=-1)


def to_module_device(batch: SceneBatch, module: nn.Module) -> SceneBatch:
    """The batch on the device and in the real dtype of a module's weights; as it is for a module without any."""
    for parameter in module.parameters():
        return batch.to(parameter.device, parameter.dtype)
    return batch


def design_of(model: nn.Module) -> str:
    """Which of DESIGNS a network is; "memoriser" for one of another kind."""
    kinds = {"unrolled+residual": UnrolledResidualNet, "unrolled": UnrolledNet}
    return next((name for name, kind in kinds.items() if isinstance(model, kind)), "memoriser")


def default_beams(config: SceneConfig) -> tuple[int, int, int]:
    """Beams over azimuth, elevation and inverse range: about one a beam width of the surface, at three ranges."""
    rows, columns = config.ris_shape
    return columns + 1, rows // 2 + 1, 3


def parameter_count(model: nn.Module) -> int:
    """Number of trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
