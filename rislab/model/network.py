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
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.errors import check_choice, check_number
from rislab.model.unrolled import FEATURES, Pursuit, default_shape
from rislab.rng import GLOBAL_RNG_LOCK

DESIGNS = ("pursuit", "places", "beams")


class BeamPower(nn.Module):
    """Beam-power maps of the back-projections: mean over l of |a_g^H x_l|² on a (sin φ, sin θ, 1/r) grid.

    Args:
        config: scenes to be seen; gives surface, field of view and wavefront.
        shape: grid points (P, Q, R).
        ridge: see covariance.back_projections.
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
    """Linear map to the real and imaginary parts of the factor."""

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
    """Power of each place on a path, from what is known of all of them.

    The last layer gives each place a share, and one share to none of them: powers add up to N or less, and where the
    network does not know it says little. Untrained it says next to nothing.

    Args:
        candidates: C, places on a path. features: known of each. width: of the hidden layers. elements: N.
    """

    SILENT = 6.0

    def __init__(self, candidates: int, features: int, width: int, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.own = nn.Linear(features, width)
        self.place = nn.Parameter(0.5 * torch.randn(candidates, width))
        self.among = nn.ModuleList(nn.Linear(candidates, candidates) for _ in range(2))
        self.within = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.share = nn.Linear(width, 1)
        nn.init.normal_(self.share.weight, std=0.02)
        self.none = nn.Parameter(torch.tensor(self.SILENT))

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,features] to powers [B,C], in float32 or better."""
        hidden = self.own(features) + self.place  # [B, C, width]
        for among, within in zip(self.among, self.within, strict=True):
            hidden = hidden + torch.tanh(among(hidden.mT)).mT
            hidden = hidden + within(hidden)
        shares = self.share(hidden).squeeze(-1)
        shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
        none = self.none.to(shares.dtype).expand(len(shares), 1)
        return self.elements * torch.softmax(torch.cat([shares, none], dim=-1), dim=-1)[:, :-1]


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
        design: str = "beams",
        width: int = 512,
        beams: tuple[int, int, int] | None = None,
        ridge: float = 0.1,
    ) -> CovarianceNet:
        """A network for a scene configuration, its weights drawn from `seed` alone.

        Args:
            config: scenes. seed: of the weights.
            design: "pursuit", see PursuitNet; "places", see PlacesNet; or "beams", which has nothing but beam-power
                maps to go by, and learns scenes by heart.
            width: hidden features of the backbone. beams: grid of its maps, see default_beams().
            ridge: see covariance.back_projections().
        """
        check_number("seed", seed, 0, 2**63 - 1, integer=True)
        check_choice("design", design, DESIGNS)
        check_number("width", width, 1, 4096, integer=True)
        maps = BeamPower(config, beams or default_beams(config), ridge)
        with GLOBAL_RNG_LOCK, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = Backbone(maps.atoms.shape[0], width)
            head = Head(width, config.elements, config.sources[1])
            if design == "beams":
                return cls(backbone, head, maps)
            pursuit = Pursuit(config, default_shape(config))
            weigher = PowerHead(pursuit.candidates, FEATURES, 64, config.elements)
        return (
            UnrolledNet(pursuit, weigher)
            if design == "places"
            else UnrolledResidualNet(backbone, head, maps, pursuit, weigher)
        )

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F of the covariance.

        Args:
            snapshots: [B,L,M], codes: [B,L,N], channel: [B,M,N], complex64 or complex128.

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
    """The places that an unrolled sparse fit finds, and what each is worth: F = [√p_c a_c], and nothing else.

    Args:
        pursuit: see Pursuit. weigher: see Weigher.
    """

    def __init__(self, pursuit: Pursuit, weigher: PowerHead) -> None:
        nn.Module.__init__(self)
        self.pursuit, self.weigher = pursuit, weigher

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F, [B,N,C], of which the last columns hold the fit with the most sources."""
        with torch.autocast(snapshots.device.type, enabled=False):
            path = self.pursuit(snapshots, codes, channel)
        return path.factor * self.weigher(path.features).sqrt().unsqueeze(-2)


class UnrolledResidualNet(UnrolledNet):
    """CovarianceNet that begins with the places that an unrolled sparse fit finds, and learns what each is worth.

    F = [√p_c a_c] over the places on the path, plus what the plain network has to add in the columns of its last level:
    little on fresh scenes, and all that is needed to learn a set by heart.

    Args:
        backbone, head, maps: see CovarianceNet. pursuit: see Pursuit. weigher: see Weigher.
    """

    # Of what the plain network says: on fresh scenes it has to learn to say nothing.
    ADDED = 0.1

    def __init__(
        self, backbone: nn.Module, head: nn.Module, maps: nn.Module, pursuit: Pursuit, weigher: PowerHead
    ) -> None:
        super().__init__(pursuit, weigher)
        self.maps, self.backbone, self.head = maps, backbone, head

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """Factor F, [B,N,C]."""
        factor = super().forward(snapshots, codes, channel)
        added = self.ADDED * CovarianceNet.forward(self, snapshots, codes, channel)  # [B, N, Kmax]
        rest = factor.shape[-1] - added.shape[-1]
        return torch.cat([factor[..., :rest], factor[..., rest:] + added], dim=-1)


def to_module_device(batch: SceneBatch, module: nn.Module) -> SceneBatch:
    """The batch on the device and in the real dtype of a module's weights; as it is for a module without any."""
    for parameter in module.parameters():
        return batch.to(parameter.device, parameter.dtype)
    return batch


def design_of(model: nn.Module) -> str:
    """Which of DESIGNS a network is; "beams" for one of another kind."""
    kinds = {"pursuit": UnrolledResidualNet, "places": UnrolledNet}
    return next((name for name, kind in kinds.items() if isinstance(model, kind)), "beams")


def default_beams(config: SceneConfig) -> tuple[int, int, int]:
    """Beams over azimuth, elevation and inverse range: about one a beam width of the surface, three ranges."""
    rows, columns = config.ris_shape
    return columns + 1, rows // 2 + 1, 3


def parameter_count(model: nn.Module) -> int:
    """Number of trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
