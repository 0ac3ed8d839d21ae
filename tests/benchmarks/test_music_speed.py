"""Speed of MUSIC, the bounds and the sparse reference, against the floor of one matrix product and pyroomacoustics.

The floor of a spectrum is the one complex64 product of all steering vectors with all signal subspaces, into memory that
is there already: 8·G·N·K operations a scene, without subspace, squares, sum and peaks. `make bench` prints the ratios;
no time is asserted, only that pyroomacoustics finds the same cells.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import rislab
from rislab.data.covariance import covariance, sample_factor
from rislab.data.grid import Grid
from rislab.music.spectra import WORK, coarse_to_fine
from tests.benchmarks.common import alone, compare

SCENES, SOURCES, SHAPE, CUBE = 64, 3, (181, 91, 1), (50, 50, 50)
# Share of the trace that the identity gets: a covariance as it is measured has no zero eigenvalues.
FLOOR = 0.1


def scenes(number: int = SCENES, **changes: Any) -> rislab.SceneBatch:
    return rislab.simulate(rislab.SceneConfig.preset("full", **{"sources": SOURCES, **changes}), number, seed=0)


def product(grid: Grid, number: int) -> Callable[[], Tensor]:
    """The floor: steering vectors [G,N] times subspaces [N,B·K], complex64."""
    atoms = grid.steering(torch.complex64)
    subspaces = torch.randn(atoms.shape[1], number * SOURCES, dtype=torch.complex64)
    out = torch.empty(len(atoms), number * SOURCES, dtype=torch.complex64)
    return lambda: torch.mm(atoms, subspaces, out=out)


def exact(batch: rislab.SceneBatch) -> Tensor:
    return batch.covariance()


def loaded(batch: rislab.SceneBatch) -> Tensor:
    return batch.covariance() + FLOOR * torch.eye(batch.config.elements)


def measured(batch: rislab.SceneBatch) -> Tensor:
    return covariance(sample_factor(batch))


def factor(batch: rislab.SceneBatch) -> Tensor:
    return batch.factor()


@pytest.mark.parametrize("refine", [False, True], ids=["cells", "refined"])
@pytest.mark.parametrize(
    ("given", "wavefront", "target"),
    [
        (exact, "spherical", 3.0),
        (loaded, "spherical", 3.0),
        (measured, "spherical", 3.0),
        (factor, "spherical", 1.7),
        (factor, "planar", None),
    ],
    ids=["exact covariance", "covariance + 0.1 I", "covariance of back-projections", "factor", "factor, planar"],
)
def test_music(
    benchmark: Any, given: Callable[[rislab.SceneBatch], Tensor], wavefront: str, target: float | None, refine: bool
) -> None:
    """Peaks of 64 scenes on a 181×91 grid, a scene; refined ones have no target."""
    torch.set_num_threads(2)
    batch = scenes(wavefront=wavefront)
    grid, matrix = batch.config.grid(SHAPE), given(batch)
    floor = product(grid, SCENES)
    target = None if refine else target
    compare(benchmark, lambda: rislab.music_spectrum(matrix, SOURCES, grid, refine=refine), floor, target, unit=SCENES)


def cells(estimate: rislab.Estimate, grid: Grid) -> list[set[tuple[int, int]]]:
    """Places of the peaks of each scene as (azimuth, elevation) numbers of the grid."""
    numbers = [
        (values.double().unsqueeze(-1) - axis).abs().argmin(-1)
        for values, axis in ((estimate.azimuth, grid.azimuth), (estimate.elevation, grid.elevation))
    ]
    return [set(zip(*(part.tolist() for part in pair), strict=True)) for pair in zip(*numbers, strict=True)]


class Rival:
    """MUSIC of pyroomacoustics on the same array and grid, in the one frequency bin of the array's wavelength."""

    def __init__(self, grid: Grid, tabulated: bool) -> None:
        doa = pytest.importorskip(
            "pyroomacoustics", reason="pyroomacoustics cannot be imported", exc_type=ImportError
        ).doa
        nfft, rate = 2, 2.0  # bins at 0 and 1 Hz: the second has the wavelength c
        places = grid.array.elements.double().T.numpy()
        azimuth, colatitude = grid.azimuth.numpy(), (math.pi / 2 - grid.elevation).numpy()
        setup = {"c": grid.array.wavelength, "num_src": SOURCES, "azimuth": azimuth, "colatitude": colatitude}
        self.music = doa.MUSIC(places, rate, nfft, dim=3, **setup)
        if tabulated:
            # As it comes it takes the exponential of all phases at each call; its own table spares it that.
            arguments = places, rate, nfft, grid.array.wavelength, self.music.grid
            self.music.mode_vec = doa.doa.ModeVector(*arguments, precompute=True)

    def locate(self, fields: Tensor) -> set[tuple[int, int]]:
        """Cells of the peaks from fields on the surface [N,S]."""
        bins = np.zeros((len(fields), 2, fields.shape[1]), dtype=np.complex64)
        bins[:, 1] = fields.numpy()
        self.music.locate_sources(bins, num_src=SOURCES, freq_bins=[1])
        # Its points run over colatitude first, azimuth fastest, both rising.
        return {(int(place) % SHAPE[0], SHAPE[1] - 1 - int(place) // SHAPE[0]) for place in self.music.src_idx}


def leading_by_eigh(matrix: NDArray[Any]) -> NDArray[Any]:
    """All eigenvectors, and of them the last K."""
    return np.linalg.eigh(matrix)[1][..., -SOURCES:]


def leading_by_blocks(matrix: NDArray[Any]) -> NDArray[Any]:
    """The K leading eigenvectors alone, by twelve steps of a block power iteration."""
    start = np.random.default_rng(0).standard_normal((2, matrix.shape[-1], SOURCES + 5)).astype(np.float32)
    block = np.broadcast_to(start[0] + 1j * start[1], (len(matrix), *start.shape[1:]))
    for _ in range(6):
        block = np.linalg.qr(matrix @ (matrix @ block))[0]
    turned = np.linalg.eigh(block.conj().swapaxes(1, 2) @ matrix @ block)[1]
    return np.asarray(block @ turned[..., -SOURCES:])


@pytest.mark.parametrize("refine", [False, True], ids=["cells", "refined"])
@pytest.mark.parametrize("leading", [leading_by_eigh, leading_by_blocks], ids=["eigh", "blocks"])
def test_against_numpy(benchmark: Any, leading: Callable[[NDArray[Any]], NDArray[Any]], refine: bool) -> None:
    """The K highest cells by NumPy, from one product for all scenes; its cells may be neighbours on one peak."""
    torch.set_num_threads(1)
    batch = scenes()
    grid, matrix = batch.config.grid(SHAPE), loaded(batch)
    atoms = grid.steering(torch.complex64).numpy().conj()

    def theirs() -> NDArray[Any]:
        beams = atoms @ leading(matrix.numpy()).transpose(1, 0, 2).reshape(atoms.shape[1], -1)
        power = (beams.real**2 + beams.imag**2).reshape(len(atoms), SCENES, SOURCES).sum(-1).T
        return np.argpartition(1 / (1 - power), -SOURCES, axis=1)[:, -SOURCES:]

    ours = lambda: rislab.music_spectrum(matrix, SOURCES, grid, refine=refine)  # noqa: E731
    compare(benchmark, ours, theirs, 0.5 if refine else None, unit=SCENES, rounds=15, clock=time.process_time)


def far_fields(number: int) -> tuple[Tensor, Grid]:
    """200 snapshots of the field on the surface itself, 10 dB, plane waves from distinct directions, [B,N,S]."""
    batch = scenes(wavefront="planar", separation=0.3)
    torch.manual_seed(0)
    symbols = torch.randn(SCENES, SOURCES, 200, dtype=torch.complex64)
    fields = batch.factor() @ symbols
    fields += math.sqrt(0.1) * torch.randn_like(fields)
    return fields[:number], batch.config.grid(SHAPE)


def from_fields(fields: Tensor, grid: Grid) -> rislab.Estimate:
    return rislab.music_spectrum(covariance(fields), SOURCES, grid, refine=False).peaks


@pytest.mark.parametrize(
    ("number", "tabulated", "target"),
    [(SCENES, False, None), (SCENES, True, 0.01), (1, True, None)],
    ids=["64 at once, theirs as it comes", "64 at once, theirs tabulated", "one, theirs tabulated"],
)
def test_against_pyroomacoustics(benchmark: Any, number: int, tabulated: bool, target: float | None) -> None:
    """From snapshots to peaks, a scene; pyroomacoustics takes one at a time, with or without its steering vectors."""
    torch.set_num_threads(2)
    fields, grid = far_fields(number)
    rival = Rival(grid, tabulated)
    compare(
        benchmark,
        lambda: from_fields(fields, grid),
        lambda: rival.locate(fields[0]),
        target,
        unit=number,
        reference_unit=1,
        rounds=5,
    )


def test_same_cells_as_pyroomacoustics(benchmark: Any) -> None:
    """The peaks of 16 scenes are the same cells of the grid."""
    fields, grid = far_fields(16)
    rival = Rival(grid, True)
    theirs = [rival.locate(scene) for scene in fields]
    mine = cells(benchmark.pedantic(lambda: from_fields(fields, grid), rounds=1, iterations=1), grid)
    differ = {scene: (ours - other, other - ours) for scene, (ours, other) in enumerate(zip(mine, theirs, strict=True))}
    differ = {scene: sides for scene, sides in differ.items() if any(sides)}
    print(f"\n{benchmark.name}: same peak cells: {'no' if differ else 'yes'}, in {16 - len(differ)} of 16 scenes")
    for scene, (only_ours, only_theirs) in differ.items():
        print(f"    scene {scene}: only ours {sorted(only_ours)}, only theirs {sorted(only_theirs)}")
    assert not differ


@pytest.mark.parametrize("number", [16, SCENES], ids=["16 scenes", "64 scenes"])
@pytest.mark.parametrize("way", ["full, cells", "full, refined", "coarse to fine"])
def test_near_field(benchmark: Any, way: str, number: int) -> None:
    """Peaks over 125 000 points of azimuth, elevation and range from a factor, a scene."""
    torch.set_num_threads(2)
    batch = scenes(number)
    grid, matrix = batch.config.grid(CUBE), batch.factor()
    if way == "coarse to fine":
        compare(benchmark, lambda: coarse_to_fine(matrix, SOURCES, grid), product(grid, number), 0.7, unit=number)
        return
    refine = way == "full, refined"
    compare(
        benchmark,
        lambda: rislab.music_spectrum(matrix, SOURCES, grid, refine=refine),
        product(grid, number),
        2.0,
        unit=number,
    )


def found(estimate: rislab.Estimate, others: rislab.Estimate | rislab.SceneBatch) -> Tensor:
    """Which scenes have all peaks at the others' places, to 0.1 mrad and a thousandth of 1/r in 1/m, [B]."""
    mine, theirs = (torch.stack([e.azimuth, e.elevation, 1 / e.range], -1).double() for e in (estimate, others))
    apart = (mine.unsqueeze(2) - theirs.unsqueeze(1)).abs() <= torch.tensor([1e-4, 1e-4, 1e-3])
    return apart.all(-1).any(1).all(-1)


def test_near_field_peaks(benchmark: Any) -> None:
    """The coarse search ends where the full one does, and both at the sources."""
    torch.set_num_threads(2)
    batch = scenes()
    grid, matrix = batch.config.grid(CUBE), batch.factor()
    coarse = benchmark.pedantic(lambda: coarse_to_fine(matrix, SOURCES, grid), rounds=1, iterations=1)
    full = rislab.music_spectrum(matrix, SOURCES, grid).peaks
    same, true, coarse_true = (found(*pair) for pair in ((coarse, full), (full, batch), (coarse, batch)))
    print(
        f"\n{benchmark.name}: coarse to fine and full agree in {int(same.sum())} of {SCENES} scenes, not in "
        f"{(~same).nonzero().flatten().tolist()}; not at the sources: full in {(~true).nonzero().flatten().tolist()}, "
        f"coarse to fine in {(~coarse_true).nonzero().flatten().tolist()}"
    )


# The kernel's own high-water mark, reset before each call: ru_maxrss would begin with that of the forking process.
MEMORY = f"""
import re, torch, rislab
from rislab.music.spectra import coarse_to_fine
def status(field):
    with open("/proc/self/status") as file:
        return int(re.search(field + r":\\s+(\\d+) kB", file.read())[1])
def added(run):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    result = run()
    print((status("VmHWM") - before) / 1024, (status("VmRSS") - before) / 1024)
torch.set_num_threads(2)
batch = rislab.simulate(rislab.SceneConfig.preset("full", sources={SOURCES}), {SCENES}, seed=0)
factor = batch.factor()
rislab.music_spectrum(factor, {SOURCES}, batch.config.grid((9, 9, 9)))  # libraries load their kernels at the first call
grid = batch.config.grid({CUBE})
added(lambda: coarse_to_fine(factor, {SOURCES}, grid))
added(lambda: [rislab.music_spectrum(factor[:1], {SOURCES}, grid, refine=False) for _ in range(2)])  # tabulated by then
added(lambda: rislab.music_spectrum(factor, {SOURCES}, grid))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_near_field_memory(benchmark: Any) -> None:
    """Highest resident memory over that before the call, in a new process."""

    def added() -> list[list[float]]:
        done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
        return [[float(number) for number in line.split()] for line in done.stdout.splitlines()]

    coarse, planes, full = benchmark.pedantic(added, rounds=1, iterations=1)
    points = math.prod(CUBE)
    kept, result = points * 144 * 8 / 2**20, SCENES * points * 4 / 2**20
    print(
        f"\n{benchmark.name}: steering vectors at the first call {planes[0]:.0f} MiB at the peak, {planes[1]:.0f} kept "
        f"(stated {kept:.0f}); then {full[0]:.0f} MiB at the peak, {full[1]:.0f} kept (stated: result {result:.0f} + "
        f"work {WORK / 2**20:.0f}); coarse to fine {coarse[0]:.0f} MiB with its steering vectors, {coarse[1]:.0f} kept"
    )


@pytest.mark.parametrize("threads", [1, 2], ids=["1 thread", "2 threads"])
@pytest.mark.parametrize("sources", [3, 5])
@pytest.mark.parametrize("kind", ["deterministic", "stochastic"])
def test_bound(benchmark: Any, kind: str, sources: int, threads: int) -> None:
    """64 scenes at once, a scene."""
    torch.set_num_threads(threads)
    batch = scenes(sources=sources)
    alone(benchmark, lambda: rislab.crb(batch, kind=kind), 2.0, unit=SCENES)


@pytest.mark.parametrize("ranges", ["same grid", "new range"])
@pytest.mark.parametrize("given", ["factor", "covariance"])
def test_slider_to_map(benchmark: Any, given: str, ranges: str) -> None:
    """One scene on one thread, from the change of a parameter to the new map of 181×91 cells and its peaks."""
    grid = rislab.SceneConfig.preset("full", sources=SOURCES).grid(SHAPE)
    turns = count()

    def ours() -> Tensor:
        turn = next(turns)
        config = rislab.SceneConfig.preset("full", sources=SOURCES, snr_db=10.0 + 0.1 * (turn % 50))
        batch = rislab.simulate(config, 1, seed=0)
        matrix = sample_factor(batch)
        here = 1.0 + 0.1 * (turn % 50)
        over = grid if ranges == "same grid" else config.grid(SHAPE, range=(here, here))
        return rislab.music_spectrum(matrix if given == "factor" else covariance(matrix), SOURCES, over).map

    alone(benchmark, ours, 30.0)


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_sparse_and_polish(benchmark: Any, sources: int) -> None:
    """64 scenes of 10 dB at once, a scene."""
    torch.set_num_threads(2)
    batch = scenes(sources=sources, snr_db=10.0)
    alone(benchmark, lambda: rislab.polish(batch, rislab.sparse(batch, sources)), 25.0, unit=SCENES)
