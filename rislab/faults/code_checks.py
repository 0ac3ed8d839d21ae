"""Checks of the code of an exercise: the checkup and a correct loop, or laws and equalities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch
from rislab.data import covariance, geometry
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.faults.lessons import Exercise
from rislab.music.spectra import music_spectrum

# Sums in another order differ by this share of a weight; a step of another length by far more.
WEIGHT_TOLERANCE = 1e-4
TOLERANCE = 1e-4
# A unit in the last place of float16 is up to this share of a number, and a few operations in it round a few times.
HALF_TOLERANCE = 2 * 2.0**-10
WAVELENGTH = 0.1


@dataclass(frozen=True)
class Case:
    """A call of the student's function, and what it is to return."""

    arguments: tuple[Any, ...]  # of the call
    expected: Any  # a tensor, number, set, or a tuple or list of them
    law: str  # what the case shows, as the end of a sentence that begins with "for"


def problem_of(exercise: Exercise, function: Callable[..., Any]) -> str:
    """What is wrong with the function that answers an exercise, in one sentence; "" if nothing is.

    The function is called in this process, and its exceptions come through.
    """
    if exercise.loop:
        return _loop_problem(exercise, function)
    for case in CASES[exercise.name]():
        value = function(*(each.clone() if isinstance(each, Tensor) else each for each in case.arguments))
        if difference := _difference(value, case.expected):
            return f"for {case.law}, {exercise.function}() {difference}"
    return ""


def reference(exercise: Exercise) -> Callable[..., Any]:
    """The function of the solution."""
    namespace: dict[str, Any] = {}
    exec(compile(exercise.solution, f"<solution of {exercise.name}>", "exec"), namespace)
    function: Callable[..., Any] = namespace[exercise.function]
    return function


# ---------------------------------------------------------------------------------------------------------------- loops


def _loop_problem(exercise: Exercise, train: Callable[..., Any]) -> str:
    """Train a small network by the loop, watched, and by the correct one; SGD, which hides no factor."""
    loop = exercise.loop
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
        inputs = torch.randn(loop["rows"], 10)
        correct, trained = (_train(exercise, function, network, inputs) for function in (reference(exercise), train))
    reported, wanted = _as_numbers(trained.returned), correct.returned
    if loop.get("report") and (reported is None or reported.shape != (len(wanted),) or reported.is_complex()):
        return (
            f"train() returned {_short(trained.returned)}; allowed: a list of {len(wanted)} numbers, one for each epoch"
        )
    before, after, right = (
        nn.utils.parameters_to_vector(net.parameters()).detach() for net in (network, trained.model, correct.model)
    )
    # A loop that ends at the weights of the correct one is right, whatever the checkup expects of windows.
    apart = float((after - right).norm() / (right - before).norm())
    exact = apart <= WEIGHT_TOLERANCE
    if exact and max(trained.given) > loop["micro_batch"]:
        most = f"{max(trained.given)} samples at once; allowed: the {loop['micro_batch']} of one micro-batch"
        return f"the step is right, but the network was given {most}"
    if exact and trained.scaler and not trained.scaler.state_dict()["_growth_tracker"]:
        return "the weights are right, but the scaler was not used: scaler.update() has counted no step"
    if not exact or (loop.get("report") and _difference(reported, wanted)):
        if trained.findings.faults:
            worst = trained.findings.faults[0]
            return f"the checkup says {worst.name!r}: {worst.evidence}"
        if exact:
            return "the training is right, and what is reported is not the mean loss of the samples of an epoch"
        if torch.equal(before, after):
            return "no weight has moved: was a step taken?"
        if sum(trained.given) != sum(correct.given):
            return (
                f"the network was given {sum(trained.given)} samples in all, and {sum(correct.given)} in a correct loop"
            )
        return f"the weights end elsewhere than those of a correct loop: apart by {apart:.1%} of the way that it went"
    return ""


@dataclass(frozen=True)
class _Training:
    """What a loop has done."""

    model: nn.Module  # a copy of the network, trained
    returned: Any  # by the loop
    findings: Findings  # of the checkup
    scaler: torch.amp.GradScaler | None  # of the gradients, None without
    given: list[int]  # samples of each forward


def _train(exercise: Exercise, train: Callable[..., Any], network: nn.Module, inputs: Tensor) -> _Training:
    """Train a copy of the network, watched."""
    loop, model, given = exercise.loop, copy.deepcopy(network), [0]
    targets = inputs.sin().sum(1, keepdim=True)
    batches = list(zip(inputs.split(loop["micro_batch"]), targets.split(loop["micro_batch"]), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if loop.get("scaler") else None
    steps = loop["accumulation_steps"]
    arguments = (model, optimizer, *([scaler] if scaler else []), batches, *([steps] if steps > 1 else []))
    declared = {"accumulation_steps": steps, "scaler": scaler, "clip_norm": loop.get("clip_norm"), "every": 1}
    hook = model.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    with watch(model, optimizer, **declared) as watched:
        returned = train(*arguments)
    hook.remove()
    numbers = _as_numbers(returned) if loop.get("report") else None
    reported = numbers.tolist() if numbers is not None and numbers.dim() == 1 and len(numbers) else None
    return _Training(model, returned, watched.findings(reported=reported), scaler, given)


# ----------------------------------------------------------------------------------------------------- values and laws


def _difference(value: Any, expected: Any) -> str:
    """How a value differs from the expected one, as the end of a sentence; "" if it does not."""
    if isinstance(expected, tuple):
        if not isinstance(value, tuple | list) or len(value) != len(expected):
            return f"returned {_short(value)}; allowed: {len(expected)} tensors"
        return next((text for pair in zip(value, expected, strict=True) if (text := _difference(*pair))), "")
    if isinstance(expected, set):
        return _set_difference(value, expected)
    given, wanted = _as_numbers(value), torch.as_tensor(expected)
    if given is None:
        allowed = "a tensor" if isinstance(expected, Tensor) else "a list of numbers" if wanted.dim() else "a number"
        return f"returned {_short(value)}; allowed: {allowed}"
    if given.shape != wanted.shape:
        allowed = str(tuple(wanted.shape)) if wanted.dim() else "a single number"
        return f"returned the shape {tuple(given.shape)}; allowed: {allowed}"
    if given.is_complex() and not wanted.is_complex():
        return "returned complex numbers; allowed: real ones"
    if wanted.dtype == torch.float16 != given.dtype:
        return f"returned {str(given.dtype).removeprefix('torch.')}; allowed: float16"
    tolerance = HALF_TOLERANCE if wanted.dtype == torch.float16 else TOLERANCE
    kind = torch.complex128 if wanted.is_complex() else torch.float64
    given, wanted = given.to(kind), wanted.to(kind)
    if not bool(torch.isfinite(given).all()):
        return "returned numbers that are not finite"
    apart = float((given - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-30)
    if apart <= tolerance:
        return ""
    single = f"returned {_short(value)}, which is wrong"
    return f"is wrong by up to {apart:.2g} times the largest right value" if wanted.dim() else single


def _set_difference(value: Any, expected: set[int]) -> str:
    # A class of its own could call itself equal to anything.
    if type(value) in (set, frozenset):
        if value == expected:
            return ""
        if all(isinstance(one, Integral) for one in value):
            return f"returned {_short(value)}, which is wrong"
    return f"returned {_short(value)}; allowed: a set of whole numbers"


def _as_numbers(value: Any) -> Tensor | None:
    """A tensor of the numbers of an answer, None if it holds something else."""
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError):
        # Fractions are numbers too.
        floats = isinstance(value, list | tuple) and all(isinstance(one, Real) for one in value)
        return torch.tensor([float(one) for one in value], dtype=torch.float64) if floats else None


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}" if value.dim() else f"{value.item():.6g}"
    text = repr(value)
    if text.startswith("<"):
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _random(*shape: int, seed: int = 0) -> Tensor:
    """Complex normal numbers in double precision."""
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _squared_error() -> list[Case]:
    truth, other = _random(3, 6, 2), _random(3, 6, 4, seed=1)
    return [
        Case((torch.zeros_like(truth), truth), torch.ones(3), "the zero factor, whose error is 1 by definition"),
        Case((truth, truth), torch.zeros(3), "the truth itself, whose error is 0"),
        Case((2**0.5 * truth, truth), torch.ones(3), "twice the true power, whose error is 1"),
        Case((other, truth), covariance.nmse(other, truth), "random factors of other widths"),
    ]


def _best_constant() -> list[Case]:
    one = covariance.covariance(_random(1, 5, 2))
    several = covariance.covariance(_random(6, 5, 2, seed=1)) * torch.arange(1, 7)[:, None, None]
    weights = 1 / several.abs().square().sum((-2, -1), keepdim=True)
    return [
        Case((one,), one[0], "a single covariance, which is its own best constant"),
        Case((several,), (weights * several).sum(0) / weights.sum(0), "covariances of different size"),
    ]


def _root_mean_square() -> list[Case]:
    spread = torch.linspace(-2.0, 2.0, 501)
    sizes = {"numbers around 0": 1.0, "numbers as large as 2000": 1000.0, "numbers no larger than 0.0002": 1e-4}
    cases = [((spread * size).half(), law) for law, size in sizes.items()] + [((spread + 3).half(), "numbers around 3")]
    # The result as float16 holds it.
    return [Case((x,), x.double().square().mean().sqrt().half(), f"{law} in float16") for x, law in cases]


def _weights() -> list[Case]:
    return [
        Case(([8, 8, 8, 8],), [0.25] * 4, "four micro-batches of equal size"),
        Case(([8, 8, 4],), [0.4, 0.4, 0.2], "a smaller last micro-batch"),
        Case(([5],), [1.0], "a window of one micro-batch"),
    ]


def _steering() -> list[Case]:
    array = geometry.ArrayGeometry.surface((4, 5), WAVELENGTH, "planar", dtype=torch.float64)
    laws = {
        "a source straight ahead": (0.0, 0.0),
        "a source to the side": (0.5, 0.0),
        "a source above": (0.0, 0.4),
        "a source anywhere": (-0.7, 0.3),
    }
    places = {law: torch.tensor(angles, dtype=torch.float64) for law, angles in laws.items()}
    far = torch.tensor(1e9, dtype=torch.float64)
    return [
        Case((array.elements, *angles, WAVELENGTH), array.steering(angles[0], angles[1], far), law)
        for law, angles in places.items()
    ]


def _pseudo_spectrum() -> list[Case]:
    config = SceneConfig.preset("classroom", sources=2)
    scene = simulate(config, 1, seed=3, split="test")
    factor, grid = scene.factor(torch.float64), config.grid((9, 5, 2))
    expected = music_spectrum(factor, 2, grid, refine=False).values[0].flatten()
    vectors = grid.steering(torch.complex128).mT
    return [Case((covariance.covariance(factor)[0], 2, vectors), expected, "two sources on a grid of places")]


def _place() -> list[Case]:
    angles = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64)
    zero, two = torch.zeros(5, dtype=torch.float64), torch.full((5,), 2.0, dtype=torch.float64)
    arguments = {"places straight ahead": (zero, zero, two), "places at one height": (angles, zero, two)}
    arguments |= {"places above": (zero, angles, two), "places anywhere": (angles, angles.flip(0) / 2, two + angles)}
    return [Case(each, geometry.position(*each), law) for law, each in arguments.items()]


def _count_hits() -> list[Case]:
    rows = {
        "an estimate near each of two sources": ([[0.1, 9.0], [9.0, 0.2]], 2),
        "one estimate between two sources": ([[0.1, 9.0], [0.2, 9.0]], 1),
        "no estimate near": ([[3.0, 9.0], [4.0, 9.0]], 0),
        "a nearest estimate that another source needs more": ([[0.1, 0.4], [0.2, 9.0]], 2),
        "fewer estimates than sources": ([[0.1], [0.2], [9.0]], 1),
    }
    return [Case((torch.tensor(errors), 0.5), hits, law) for law, (errors, hits) in rows.items()]


def _log_uniform() -> list[Case]:
    ends = {"the lower end": (0.0, 1e-4), "the upper end": (1.0, 1.0), "half of the way": (0.5, 1e-2)}
    return [Case((share, 1e-4, 1.0), value, f"{law} from 0.0001 to 1") for law, (share, value) in ends.items()]


def _halving() -> list[Case]:
    return [
        Case(([3.0, 1.0, 2.0, 4.0],), {1, 2}, "four scores"),
        Case(([3.0, 1.0, 2.0],), {1, 2}, "three scores, half of which rounds up to two"),
        Case(([math.nan, 2.0, 1.0, math.nan],), {1, 2}, "two trials that failed"),
        Case(([math.nan, 9.0],), {1}, "a failed trial that comes first"),
    ]


def _less_the_mean() -> list[Case]:
    channel, field = _random(3, 8), _random(8, seed=1)
    codes = torch.exp(1j * _random(20, 8, seed=2).real)
    snapshots, direct = (codes * field) @ channel.mT, 50 * _random(3, seed=3)
    expected = (snapshots - snapshots.mean(0), codes - codes.mean(0))
    return [
        Case((snapshots, codes), expected, "snapshots without a path past the surface"),
        Case((snapshots + direct, codes), expected, "a strong path past the surface, which must leave no trace"),
    ]


def _row_by_row() -> list[Case]:
    cases = []
    for rows, columns in ((2, 3), (4, 4), (1, 5)):
        right = torch.arange(2 * rows * columns).reshape(2, rows * columns)
        table = right.reshape(2, rows, columns).mT.flatten(1)
        cases.append(Case((table, rows, columns), right, f"{rows} rows of {columns} elements"))
    return cases


CASES: dict[str, Callable[[], Sequence[Case]]] = {
    "squared error": _squared_error,
    "best constant": _best_constant,
    "root mean square": _root_mean_square,
    "weights": _weights,
    "steering": _steering,
    "pseudo spectrum": _pseudo_spectrum,
    "place": _place,
    "count hits": _count_hits,
    "log uniform": _log_uniform,
    "halving": _halving,
    "less the mean": _less_the_mean,
    "row by row": _row_by_row,
}
