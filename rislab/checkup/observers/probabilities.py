"""Probabilities, and their logarithms, among the arguments of losses: told by their range and by what rows sum to."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

RAW = "logits where log-probabilities belong"
# So many rows of the argument are looked at.
ROWS = 1024


def of_log_probabilities(first: Tensor, name: str) -> Iterator[tuple[str, str]]:
    """What else a loss was given that takes log-probabilities."""
    rows = rows_of_classes(first)
    text = _given(rows, name)
    probable = are_probabilities(rows)
    off_axis = first.dim() == 2 and len(first) > 1 and _unnormalised(rows) > 0.5
    off_axis &= are_probabilities(first.detach().float().exp().t()) or are_probabilities(first.detach().float().t())
    yield "normalised along another axis", f"{text}: each class sums to 1 over the samples" if off_axis else ""
    yield "probabilities where their logarithm belongs", f"{text} that sum to 1" if probable else ""
    yield raw_scores(rows, name) if not probable and not off_axis else (RAW, "")


def _given(rows: Tensor, name: str) -> str:
    low, high = float(rows.min()), float(rows.max())
    return f"{name}() takes log-probabilities, and was given values from {low:.3g} to {high:.3g}"


def _unnormalised(rows: Tensor) -> float:
    """The share of rows whose exponentials do not sum to 1."""
    return float(((rows.exp().sum(1) - 1).abs() > 0.2).double().mean())


def raw_scores(rows: Tensor, name: str) -> tuple[str, str]:
    """Whether rows are no logarithms of probabilities."""
    raw = _unnormalised(rows) > 0.9
    return RAW, f"{_given(rows, name)} whose exponentials do not sum to 1" if raw else ""


def of_divergence(first: Tensor, second: Tensor, logarithmic: bool) -> Iterator[tuple[str, str]]:
    """Whether kl_div() was given probabilities for logarithms, or logarithms as a target that is not `logarithmic`."""
    for what, value in (("input", first), *([("target", second)] if logarithmic else [])):
        text = f"kl_div() takes the logarithm of probabilities as {what}, and was given probabilities"
        wrong = any(map(are_probabilities, _both_ways(value)))
        yield "probabilities where their logarithm belongs", text if wrong else ""
    if not logarithmic:
        wrong = any(bool((rows <= 0).all()) and are_probabilities(rows.exp()) for rows in _both_ways(second))
        text = "kl_div() takes probabilities as target, without log_target, and was given their logarithms"
        yield "log-probabilities where probabilities belong", text if wrong else ""


def _both_ways(value: Tensor) -> list[Tensor]:
    """Rows over the last dimension, and over that of the classes."""
    return [rows_of_classes(value), value.detach().reshape(-1, value.shape[-1])[:ROWS].float()]


def rows_of_classes(value: Tensor) -> Tensor:
    """Some rows, float [rows, classes], of what has its classes in dimension 1, (N, C, …), or in the only one, (C,)."""
    value = value.detach()
    if value.dim() < 2:
        return value.reshape(1, -1).float()
    some = value[:ROWS] if value.dim() == 2 else value[:4].movedim(1, -1)
    return some.reshape(-1, some.shape[-1])[:ROWS].float()


def are_probabilities(rows: Tensor) -> bool:
    """Whether each row holds probabilities of all classes, at least two."""
    if rows.shape[1] < 2 or not bool((rows >= 0).all()):
        return False
    return bool(((rows.sum(1) - 1).abs() < 1e-2).all())
