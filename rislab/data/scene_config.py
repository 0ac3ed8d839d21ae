"""What scenes are drawn from: geometry, sources, noise and impairments; torch is imported where an array is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rislab.config import Config, choice, integer, interval, number, pair
from rislab.data.wavefronts import WAVEFRONTS
from rislab.errors import check_choice, check_number

if TYPE_CHECKING:
    import torch

    from rislab.data.geometry import ArrayGeometry
    from rislab.data.grid import Grid

SYMBOLS = ("varying", "constant", "coherent")
CODES = ("random", "dft", "hadamard")
DFT_BEAMS = ("broadside", "spread")
POWER_LAWS = ("equal", "free-space")
# Fields that make the surface or the known channel other than they are taken to be, unless 0.
IMPAIRMENTS = ("phase_error", "gain_jitter", "dead_elements", "position_jitter", "channel_error")

Interval = tuple[float, float]

PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "classroom": {"ris_shape": (6, 6), "antennas": 8, "sources": (1, 3), "range": (0.5, 3.0), "snr_db": (0.0, 20.0)},
}


@dataclass(frozen=True)
class SceneConfig(Config):
    """Everything that a scene is drawn from; in metres and radians.

    Intervals are (smallest, largest), drawn uniformly; a single number means an interval of one value. Powers always
    sum to N. DFT beams beyond N repeat. The N = N_v·N_h elements of the surface stand on a square grid; columns run
    along the azimuth axis.

    Example:
        >>> config = SceneConfig.preset("classroom", snr_db=10)
        >>> config.elements, config.snr_db
        (36, (10, 10))
    """

    wavelength: float = number(0.3, 1e-6, 1e6, "λ", unit="m")
    ris_shape: tuple[int, int] = pair((12, 12), 1, 256, "(rows, columns) of the surface, N_v and N_h")
    spacing: float = number(0.5, 0.01, 100.0, "of neighbouring elements of the surface, in wavelengths")
    antennas: int = integer(16, 1, 4096, "M, half-wavelength linear array of the base station")
    snapshots: int = integer(16, 1, 65536, "L, each with a phase profile of its own")
    sources: tuple[int, int] = interval((1, 5), 1, 64, "K, number of active sources", integer=True)
    azimuth: tuple[float, float] = interval(
        (-math.pi / 3, math.pi / 3), -math.pi / 2, math.pi / 2, "of the sources", unit="rad"
    )
    elevation: tuple[float, float] = interval(
        (-math.pi / 6, math.pi / 6), -math.pi / 2, math.pi / 2, "of the sources", unit="rad"
    )
    range: tuple[float, float] = interval(
        (0.5, 10.0), 1e-3, 1e9, "of the sources from the centre of the surface", unit="m"
    )
    snr_db: tuple[float, float] = interval(
        (-5.0, 20.0), -100.0, 200.0, "mean signal over noise power at the antennas", unit="dB"
    )
    separation: float = number(0.0, 0.0, math.pi, "smallest angle between two sources; 0 asks for none", unit="rad")
    wavefront: str = choice("spherical", WAVEFRONTS, "of the world: exact, second order, or far field")
    symbols: str = choice("varying", SYMBOLS, "new for each snapshot, one for all, or one waveform with fixed gains")
    power_law: str = choice("equal", POWER_LAWS, "powers of the sources: equal, or proportional to 1/r²")
    rician_factor: float = number(0.0, 0.0, 1e9, "κ of the channel, linear; 0 is Rayleigh")
    codes: str = choice("random", CODES, "phase profiles of the surface")
    dft_beams: str = choice("broadside", DFT_BEAMS, "which L of the N DFT beams: nearest broadside, or spread evenly")
    phase_bits: int | None = integer(None, 1, 16, "phases rounded to 2^bits levels; none is continuous", optional=True)
    phase_error: float = number(0.0, 0.0, math.pi, "standard deviation of the phases actually applied", unit="rad")
    gain_jitter: float = number(0.0, 0.0, 1.0, "relative standard deviation of the elements' gains")
    dead_elements: float = number(0.0, 0.0, 0.9, "probability that an element reflects nothing")
    position_jitter: float = number(0.0, 0.0, 1e6, "standard deviation of an element's coordinates", unit="m")
    channel_error: float = number(0.0, 0.0, 10.0, "variance of the error of the known H, over an entry's power")

    def check(self) -> None:
        """Refuse elements that stray further than a wavelength."""
        check_number("position_jitter", self.position_jitter, 0.0, self.wavelength)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SceneConfig:
        """The preset "classroom" (6×6, M = 8, fast) or "full" (12×12, M = 16), with fields changed by keyword."""
        check_choice("preset", name, PRESETS)
        return cls.from_dict({**PRESETS[name], **changes})

    @property
    def elements(self) -> int:
        """N, the number of RIS elements."""
        return self.ris_shape[0] * self.ris_shape[1]

    def array(self, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> ArrayGeometry:
        """The RIS as its steering object, without impairments; in float32 if no dtype is given."""
        import torch

        from rislab.data.geometry import ArrayGeometry

        return ArrayGeometry.surface(
            self.ris_shape,
            self.wavelength,
            self.wavefront,
            spacing=self.wavelength * self.spacing,
            dtype=dtype or torch.float32,
            device=device,
        )

    def grid(self, shape: tuple[int, int, int], *, range: Interval | None = None, spacing: str = "uniform") -> Grid:
        """Search grid over the field of view; see Grid.field_of_view(). `range` in metres narrows it in range."""
        import torch

        from rislab.data.grid import Grid

        area = (self.azimuth, self.elevation, range or self.range)
        return Grid.field_of_view(self.array(dtype=torch.float64), *area, shape, spacing=spacing)


def preset(default: str) -> Any:
    """A field that holds the name of a preset."""
    return choice(default, tuple(PRESETS), "scenes: classroom (6×6 surface) or full (12×12)")
