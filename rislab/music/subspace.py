"""Signal subspaces: the leading eigenvectors of a covariance, or of F F^H without forming it."""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.data.covariance import sample_covariance, scale_to_trace
from rislab.data.grid import chunks
from rislab.data.measurement import Measured, check_measured
from rislab.errors import InputError, check_number

# A matrix whose antihermitian part is larger than this share of it is no covariance, in any precision.
ANTIHERMITIAN = 1e-4
# Columns iterated beyond the wanted ones: the gap that counts is the one behind the last of them.
SPARE = 5
# Bytes of covariances worked on at once.
WORK = 2**20
ITERATIONS = 6


def validate_covariance(covariance_or_factor: Tensor | Measured, elements: int) -> Tensor:
    """Check the argument of an estimator; scale it to trace N.

    Args:
        covariance_or_factor: R [B,N,N] Hermitian, or F [B,N,J] with J < N; complex64 or complex128; without batch axis
            B is 1. Of scenes and measurements the sample covariance.
        elements: N, that of the array.

    Returns:
        The Hermitian part of R, [B,N,N], or F, [B,N,J].

    Raises:
        InputError: for a wrong dtype or shape, NaN, infinity, zero, or a matrix that is not Hermitian.
    """
    if not isinstance(covariance_or_factor, Tensor):
        check_measured(covariance_or_factor, "covariance or factor", "a complex tensor, ")
        covariance_or_factor = sample_covariance(covariance_or_factor)
    matrix = covariance_or_factor.unsqueeze(0) if covariance_or_factor.ndim == 2 else covariance_or_factor
    matrix = matrix.resolve_conj()
    if not matrix.is_complex():
        raise InputError(f"covariance or factor is {matrix.dtype}; allowed: complex64 or complex128")
    if matrix.ndim != 3 or matrix.shape[1] != elements or not 1 <= matrix.shape[2] <= elements or not len(matrix):
        raise InputError(
            f"covariance or factor has shape {tuple(covariance_or_factor.shape)}; allowed: [B,{elements},{elements}] "
            f"or [B,{elements},J] with J below {elements}, as many rows as the array has elements"
        )
    if matrix.shape[-1] < elements:
        _refuse_size(_norm(matrix))
        return scale_to_trace(matrix)
    part, norm, odd = _hermitian_part(matrix.detach())
    _refuse_size(norm)
    trace = matrix.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    _refuse(trace <= 0, "has a trace of 0 or below; allowed: above 0")
    _refuse(odd > ANTIHERMITIAN * norm, "is not Hermitian; allowed: R = R^H (of a square factor F, give F F^H)")
    if torch.is_grad_enabled() and matrix.requires_grad:
        return (matrix + matrix.mH) * (elements / (2 * trace))[:, None, None]
    return part.mul_((elements / trace)[:, None, None])


def _hermitian_part(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R + R^H)/2 of matrices [B,N,N], and the norms of R and of (R − R^H)/2, [B]."""
    result = torch.empty_like(matrix, memory_format=torch.contiguous_format)
    width = max(1, WORK // result[0].nbytes)
    scratch = torch.empty_like(result[:width])
    norms, odd = [], []
    # A few matrices at once, in memory that is reused, so that they stay in the cache.
    for rows in chunks(len(matrix), width):
        chunk = matrix[rows]
        change = scratch[: len(chunk)].copy_(chunk.mH).sub_(chunk)
        norms.append(_norm(chunk))
        odd.append(_norm(change))
        torch.add(chunk, change, alpha=0.5, out=result[rows])
    return result, torch.cat(norms), torch.cat(odd) / 2


def _refuse_size(norm: Tensor) -> None:
    _refuse(~torch.isfinite(norm), "holds NaN or infinity; allowed: finite values")
    _refuse(norm == 0, "is zero; allowed: a rank of at least K")


def _norm(matrix: Tensor) -> Tensor:
    """Frobenius norms, [B], without a gradient."""
    return torch.linalg.vector_norm(torch.view_as_real(matrix.detach()).flatten(1), dim=1)


def _refuse(bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        raise InputError(f"covariance or factor of scene {int(bad.nonzero()[0, 0])} {why}")


def eigh_psd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a covariance R [B,N,N], or the J of F F^H that belong to a factor F [B,N,J].

    Returns:
        [B,J] ≥ 0 in rising order, real, and [B,N,J], complex; J = N for a covariance.
    """
    if matrix.shape[-1] == matrix.shape[-2]:
        values, vectors = torch.linalg.eigh(matrix)
        return values.clamp(min=0), vectors
    values, rotated = torch.linalg.eigh(matrix.mH @ matrix)
    return values.clamp(min=0), matrix @ (rotated * values.clamp(min=_tiny(values)).rsqrt().unsqueeze(-2))


def signal_subspace(matrix: Tensor, sources: int | Tensor) -> Tensor:
    """Orthonormal basis U of the K leading eigenvectors of R or of F F^H.

    From a factor: with F^H F = V Λ V^H, U = F V_K Λ_K^(−1/2); nothing larger than the Gram matrix is decomposed. From a
    covariance: block Krylov iteration, accepted where the residual over the eigenvalue gap proves the subspace to
    rounding [1], with LAPACK's full decomposition for all other scenes. Differentiable in the argument, also where
    eigenvalues coincide within the signal subspace; second derivatives are not those of U.

    Args:
        matrix: R [B,N,N] or F [B,N,J], as validate_covariance() returns it.
        sources: K for all scenes, or [B], integer, 1 ≤ K < N.

    Returns:
        U, [B,N,K], complex, largest eigenvalue first; if a scene has fewer sources than others, its last columns are 0.

    Raises:
        InputError: for K out of range, or a rank below K.

    References:
        [1] C. Davis, W. M. Kahan, The rotation of eigenvectors by a perturbation III, SIAM J. Numer. Anal. 7(1), 1970.
    """
    scenes, elements, columns = matrix.shape
    counts = check_sources(sources, scenes, elements, matrix.device)
    most = int(counts.max())
    if most > columns:
        raise InputError(f"sources is {most}, and the factor has {columns} columns; allowed: a rank of at least K")
    basis = _of_covariance(matrix, counts, most) if columns == elements else _of_factor(matrix, counts, most)
    return basis * (torch.arange(most, device=counts.device) < counts.unsqueeze(-1)).unsqueeze(-2)


def check_sources(sources: int | Tensor, scenes: int, elements: int, device: torch.device) -> Tensor:
    """Numbers of sources, K for all B scenes or [B], as a tensor on a device, [B], int64.

    Raises:
        InputError: unless they are integers within 1 … N − 1.
    """
    if not isinstance(sources, Tensor):
        check_number("sources", sources, 1, elements - 1, integer=True)
        return torch.full((scenes,), sources, device=device)
    if sources.is_floating_point() or sources.is_complex() or sources.dtype == torch.bool or sources.shape != (scenes,):
        raise InputError(
            f"sources is {sources.dtype} of shape {tuple(sources.shape)}; allowed: one whole number, or [{scenes}]"
        )
    for extreme in (int(sources.min()), int(sources.max())):
        check_number("sources", extreme, 1, elements - 1, integer=True)
    return sources.to(device)


def _of_factor(factor: Tensor, counts: Tensor, most: int) -> Tensor:
    gram = factor.mH @ factor  # [B, J, J]
    values, vectors = torch.linalg.eigh(gram.detach())
    _check_rank(values.flip(-1)[:, :most], counts, factor.shape[-1])
    signal = vectors[..., -most:].flip(-1)
    if not (torch.is_grad_enabled() and factor.requires_grad):
        return factor @ (signal / values[:, -most:].flip(-1).clamp(min=_tiny(values)).sqrt().unsqueeze(-2))
    _check_equal_counts(counts)
    rotated = _rotated(gram, values, vectors, most)  # V_K, [B, J, K]
    root = torch.linalg.cholesky(rotated.mH @ gram @ rotated)
    return torch.linalg.solve_triangular(root, (factor @ rotated).mH, upper=False).mH


def _of_covariance(covariance: Tensor, counts: Tensor, most: int) -> Tensor:
    differentiable = torch.is_grad_enabled() and covariance.requires_grad
    if differentiable:
        _check_equal_counts(counts)
        values, vectors = torch.linalg.eigh(covariance.detach())
        _check_rank(values.flip(-1)[:, :most], counts, covariance.shape[-1])
        rotated = _rotated(covariance, values, vectors, most)
        root = torch.linalg.cholesky(rotated.mH @ rotated)
        return torch.linalg.solve_triangular(root, rotated.mH, upper=False).mH
    basis, values, proved = _krylov(covariance, counts, most)
    rest = (~proved).nonzero().squeeze(-1)
    if len(rest):
        full_values, full_vectors = torch.linalg.eigh(covariance[rest])
        basis[rest], values[rest] = full_vectors[..., -most:].flip(-1), full_values[..., -most:].flip(-1)
    _check_rank(values, counts, covariance.shape[-1])
    return basis


def _krylov(covariance: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading Ritz vectors [B,N,K] and values [B,K], and which scenes are proved converged, [B]."""
    elements = covariance.shape[1]
    width = most + SPARE
    if 3 * width >= elements:
        return covariance[..., :most].clone(), covariance.real[..., 0, :most].clone(), torch.zeros_like(counts).bool()
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(elements, width, generator=generator, dtype=torch.float64).to(covariance)
    eps = torch.finfo(covariance.real.dtype).eps
    # R is applied three times, so that a noise floor well below the sources is gone at the first test.
    first = (covariance.flatten(0, 1) @ start).view(len(covariance), elements, width)  # one product for all
    block = torch.linalg.qr(covariance @ (covariance @ first)).Q  # [B, N, K']
    for turn in range(ITERATIONS):
        product = covariance @ block
        if turn:
            # X, R X and R² X span a Krylov space: of rank 3·K' and less, the next Ritz vectors are exact.
            block = torch.linalg.qr(torch.cat([block, product, covariance @ product], dim=-1)).Q
            product = covariance @ block
        small = block.mH @ product
        ritz, rotated = torch.linalg.eigh((small + small.mH) / 2)
        rotated = rotated.flip(-1)[..., :width]
        values = ritz.flip(-1)[..., :width]
        block, product = block @ rotated, product @ rotated
        residual = torch.view_as_real(product - block * values.unsqueeze(-2).to(block)).square().sum((-3, -1)).sqrt()
        within = torch.arange(most, device=counts.device) < counts.unsqueeze(-1)
        worst = torch.where(within, residual[:, :most], 0).amax(-1)
        last, behind = (values.gather(1, place.unsqueeze(-1)).squeeze(-1) for place in (counts - 1, counts))
        # Converged too with a residual at rounding level: LAPACK's own is no smaller.
        proved = worst <= torch.maximum(100 * eps * (last - behind), 10 * eps * values[:, 0])
        if bool(proved.all()):
            break
    return block[..., :most].clone(), values[:, :most].clone(), proved


def _rotated(matrix: Tensor, values: Tensor, vectors: Tensor, most: int) -> Tensor:
    """Leading eigenvectors whose derivative by `matrix` is that of the invariant subspace.

    V_s + V_n X with X_ij = (v_i^H R v_j)/(λ_j − λ_i), i outside and j inside: X is 0 in value, and its derivative is
    the first-order rotation of the subspace, in which gaps within the signal subspace do not occur.
    """
    if most == matrix.shape[-1]:
        return vectors
    signal, noise = vectors[..., -most:], vectors[..., :-most]
    gaps = values[:, None, -most:] - values[:, :-most, None]  # [B, N−K, K]
    moved = noise.mH @ (matrix - matrix.detach()) @ signal
    return signal + noise @ (moved / gaps)


def _check_equal_counts(counts: Tensor) -> None:
    if bool((counts != counts[0]).any()):
        raise InputError("sources differ between scenes; allowed where a gradient is wanted: one number for all")


def _check_rank(values: Tensor, counts: Tensor, size: int) -> None:
    """Raise InputError where the K-th of the eigenvalues [B,K] in falling order is zero to rounding."""
    below = _is_below_rank(values, counts, size)
    if bool(below.any()):
        scene = int(below.nonzero()[0, 0])
        last = values.gather(1, (counts - 1).unsqueeze(-1)).squeeze(-1)
        raise InputError(
            f"covariance of scene {scene} has a rank below {int(counts[scene])}, the number of sources: its eigenvalue "
            f"{int(counts[scene])} is {float(last[scene] / values[scene, 0]):.1e} of the largest; allowed: a rank of K"
        )


def is_rank_deficient(factor: Tensor, sources: int) -> Tensor:
    """Scenes whose covariance F F^H, F [B,N,J], has to rounding a rank below K, and so no signal subspace, [B] bool."""
    values = torch.linalg.eigvalsh(factor.mH @ factor).flip(-1)[:, :sources]  # [B, K]
    return _is_below_rank(values, torch.full((len(factor),), sources, device=factor.device), factor.shape[-1])


def _is_below_rank(values: Tensor, counts: Tensor, size: int) -> Tensor:
    last = values.gather(1, (counts - 1).unsqueeze(-1)).squeeze(-1)
    return last <= size * torch.finfo(values.dtype).eps * values[:, 0]


def _tiny(values: Tensor) -> float:
    return float(torch.finfo(values.dtype).tiny)
