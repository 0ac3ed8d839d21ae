"""What a measurement from outside may be: checks of its tables, each mistake in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.data.scene_config import Interval
from rislab.errors import InputError, check_interval, check_number

FARTHEST = 1e9
# A matrix that differs from its conjugate transpose by less than this share of its largest entry is a covariance.
HERMITIAN = 1e-6
# Numbers outside these moduli overflow, or vanish, in single precision once they are multiplied.
SMALL, LARGE = 1e-12, 1e12
# Beyond these the square of a product of three such numbers is no number of double precision.
FAINTEST, STRONGEST = 1e-50, 1e50
LIMITS = {"azimuth": (-math.pi, math.pi), "elevation": (-math.pi / 2, math.pi / 2), "range": (1e-6, FARTHEST)}
SURFACE = ("codes", "channel")


def complex_tensor(name: str, values: ArrayLike | Tensor) -> Tensor:
    """The values as a complex tensor of finite numbers: complex64 if they come in single precision or less.

    Numbers whose squares single precision does not hold become complex128.
    """
    try:
        tensor = values if isinstance(values, Tensor) else _from_numpy(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} holds no numbers ({error}); allowed: a complex array") from None
    narrow = (torch.complex64, torch.float32, torch.float16, torch.bfloat16)
    tensor = tensor.detach().to(torch.complex64 if tensor.dtype in narrow else torch.complex128).resolve_conj()
    if not 1 <= tensor.ndim <= 3 or not tensor.numel():
        shape = tuple(tensor.shape)
        raise InputError(f"{name} has shape {shape}; allowed: a table that is not empty, with or without a batch axis")
    if not bool(torch.isfinite(torch.view_as_real(tensor)).all()):
        place = torch.isfinite(torch.view_as_real(tensor)).all(-1).logical_not().nonzero()[0].tolist()
        raise InputError(f"{name}{place} is NaN or infinite; allowed: finite values")
    largest = float(tensor.abs().max())
    return tensor.to(torch.complex128) if largest > LARGE or 0 < largest < SMALL else tensor


def _from_numpy(values: ArrayLike) -> Tensor:
    """A copy of what NumPy may hold and torch may not: turned, read-only or masked tables, bytes in another order."""
    array = np.asanyarray(values)
    if isinstance(array, np.ma.MaskedArray):
        # What is masked is no number.
        array = array.filled(array.fill_value) if array.mask is np.ma.nomask else (array + 0.0).filled(np.nan)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False))


def snapshots_of_elements(name: str, values: ArrayLike | Tensor, elements: int) -> Tensor:
    """Snapshots of an array without a surface as complex_tensor() has them, refused unless they end in `elements`."""
    snapshots = complex_tensor(name, values)
    if snapshots.shape[-1] != elements:
        turned = snapshots.ndim > 1 and snapshots.shape[-2] == elements
        hint = "; its transpose fits" if turned else ""
        if turned and snapshots.ndim == 3 and snapshots.shape[-1] == 2 and not snapshots.imag.any():
            hint = f"; real and imaginary parts are one number, {name}[..., 0] + 1j * {name}[..., 1]"
        elif not snapshots.imag.any() and snapshots.shape[-1] % (2 * elements) == 0:
            rows = f"{name}.reshape(-1, {2 * elements})" if snapshots.shape[-1] > 2 * elements else name
            hint = f"; if real and imaginary parts take turns, with x = {rows} it is x[:, 0::2] + 1j * x[:, 1::2]"
        shape = tuple(snapshots.shape)
        raise InputError(f"{name} has shape {shape}; allowed: [T,{elements}], snapshots by elements{hint}")
    return snapshots


def check_array(array: ArrayGeometry) -> None:
    """Refuse what is no array, and elements that are no finite places."""
    if not isinstance(array, ArrayGeometry):
        raise InputError(f"array is a {type(array).__name__}; allowed: an ArrayGeometry")
    if array.elements.ndim != 2:
        raise InputError(f"array holds elements of shape {tuple(array.elements.shape)}; allowed: [N,3]")
    if not bool(torch.isfinite(array.elements).all()):
        raise InputError("array holds NaN or infinity; allowed: finite metres")


def refuse_degrees(codes: ArrayLike | Tensor) -> None:
    """Refuse phases in place of complex factors."""
    tensor = codes if isinstance(codes, Tensor) else _from_numpy(codes)
    if tensor.is_complex() or tensor.dtype == torch.bool or not tensor.numel():
        return
    largest = float(tensor.abs().max())
    if largest > 2 * math.pi + 1e-6:
        raise InputError(
            f"codes are real and go up to {largest:g}, as phases in degrees do; "
            "allowed: complex factors, np.exp(1j * np.deg2rad(codes))"
        )


def check_shapes(snapshots: Tensor, codes: Tensor, channel: Tensor, elements: int) -> None:
    """Refuse tables that do not fit together, and say which of them would if transposed or exchanged."""
    if snapshots.ndim != 3:
        raise InputError(f"snapshots have shape {tuple(snapshots.shape)}; allowed: [L,M] or [B,L,M]")
    given = {"snapshots": snapshots, "codes": codes, "channel": channel}
    shapes = {name: tuple(table.shape[-2:]) for name, table in given.items()}
    if _fit(shapes, elements):
        for name in SURFACE:
            if given[name].ndim == 3 and given[name].shape[0] not in (1, len(snapshots)):
                raise InputError(
                    f"{name} has shape {tuple(given[name].shape)}; allowed: {list(shapes[name])}, one for all, or "
                    f"{[len(snapshots), *shapes[name]]}, one for each of the {len(snapshots)} measurements"
                )
        return
    length, antennas = shapes["snapshots"]
    turned, exchange = _fitting(shapes, elements)
    if turned == ("snapshots",):
        raise InputError(
            f"snapshots have shape {shapes['snapshots']}, and codes and channel say that there are {antennas} "
            f"snapshots and {length} antennas; allowed: [L,M], the transpose{exchange}"
        )
    wanted = {"codes": ("[L,N]", (length, elements)), "channel": ("[M,N]", (antennas, elements))}
    name = next(name for name, (_, shape) in wanted.items() if shapes[name] != shape)
    hint = "its transpose fits" if turned == (name,) else f"the transposes of {', '.join(turned)} fit"
    raise InputError(
        f"{name} has shape {tuple(given[name].shape)}; allowed: {wanted[name][0]} = {list(wanted[name][1])} with "
        f"L = {length} snapshots, M = {antennas} antennas, N = {elements} elements{f'; {hint}' if turned else ''}"
    )


def _fit(shapes: Mapping[str, tuple[int, ...]], elements: int) -> bool:
    length, antennas = shapes["snapshots"]
    return shapes["codes"] == (length, elements) and shapes["channel"] == (antennas, elements)


def _fitting(shapes: Mapping[str, tuple[int, ...]], elements: int) -> tuple[tuple[str, ...], str]:
    """The fewest tables whose transposes fit together, () if none do, and that an exchange of two would do as well."""
    exchanged = {**shapes, "codes": shapes["channel"], "channel": shapes["codes"]}
    exchange = ", or codes and channel change places" if _fit(exchanged, elements) else ""
    for count in (1, 2, 3):
        for names in combinations(shapes, count):
            if _fit({name: each[::-1] if name in names else each for name, each in shapes.items()}, elements):
                return names, exchange
    return (), exchange


def for_each_scene(tensor: Tensor, scenes: int) -> Tensor:
    """The tensor with one row for each of B scenes, [B,…], without a copy."""
    return (tensor.unsqueeze(0) if tensor.ndim == 2 else tensor).expand(scenes, -1, -1)


def check_largest(name: str, tensor: Tensor) -> None:
    """Refuse a measurement all of whose numbers [B,…] are 0, or whose squares double precision does not hold."""
    distinct = tensor if tensor.stride(0) else tensor[:1]  # one for all measurements
    for place, largest in enumerate(distinct.abs().flatten(1).amax(-1).tolist()):
        if largest == 0:
            raise InputError(f"{name} of measurement {place} is zero everywhere; allowed: a signal")
        if not FAINTEST <= largest <= STRONGEST:
            raise InputError(
                f"{name} of measurement {place} has {largest:.3g} as its largest modulus; "
                f"allowed: one in [{FAINTEST:g}, {STRONGEST:g}]"
            )


def refuse_covariance(snapshots: Tensor) -> None:
    """Refuse a Hermitian matrix in the place of snapshots."""
    if snapshots.shape[-1] != snapshots.shape[-2] or not snapshots.imag.any():
        return
    if float((snapshots - snapshots.mH).abs().max()) <= HERMITIAN * float(snapshots.abs().max()):
        raise InputError(
            "snapshots are Hermitian, as a covariance is; allowed: snapshots, or music_spectrum() of the covariance"
        )


def refuse_equal_codes(codes: Tensor, antennas: int) -> None:
    """Refuse a surface that never changes, seen by fewer antennas than it has elements."""
    length, elements = codes.shape[-2:]
    same = (codes == codes[:, :1]).flatten(1).all(-1)
    if length > 1 and antennas < elements and bool(same.any()):
        raise InputError(
            f"codes are equal in all {length} snapshots of measurement {int(same.nonzero()[0, 0])}, so that {antennas} "
            f"antennas see {elements} elements in one way only; allowed: codes that change"
        )


def pilots_of(pilots: ArrayLike | Tensor, scenes: int, length: int) -> Tensor:
    """The pilots, [L] or [B,L], complex."""
    tensor = complex_tensor("pilots", pilots)
    if tensor.shape not in ((length,), (scenes, length)):
        raise InputError(f"pilots have shape {tuple(tensor.shape)}; allowed: [{length}], one for each snapshot")
    check_largest("pilots", tensor.reshape(-1, length))
    return tensor


def noise_power_of(given: float | ArrayLike | Tensor | None, scenes: int, snapshots: Tensor) -> Tensor | None:
    """The noise power of each measurement, [B], in the precision of the snapshots."""
    if given is None:
        return None
    try:
        tensor = torch.as_tensor(given, dtype=snapshots.real.dtype, device=snapshots.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"noise_power is {given!r}; allowed: one number or [{scenes}]") from None
    if tensor.shape not in ((), (1,), (scenes,)):
        raise InputError(f"noise_power has shape {tuple(tensor.shape)}; allowed: one number or [{scenes}]")
    for value in tensor.flatten().tolist():
        check_number("noise_power", value, 0.0, exclusive=True)
    return tensor.expand(scenes)


def interval_of(name: str, given: Interval | float | None, usual: Interval) -> Interval:
    """The interval of an axis, or its default."""
    if given is None:
        return usual
    try:
        ends = np.asarray(given, dtype=float).reshape(-1).tolist()
    except (TypeError, ValueError):
        ends = []
    if len(ends) not in (1, 2):
        raise InputError(f"{name} is {given!r}; allowed: a number or a pair (smallest, largest)")
    pair = ends[0], ends[-1]
    low, high = LIMITS[name]
    most = max(abs(end) for end in pair)
    if name != "range" and high < most <= math.degrees(high):
        raise InputError(
            f"{name} is {given!r}, which looks like degrees; allowed: radians in [{low:.4g}, {high:.4g}], "
            f"such as math.radians({most:g})"
        )
    check_interval(name, pair, low, high)
    return pair
