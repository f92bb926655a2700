r"""Few iterations of GMRES or CG on many small systems at once, safe against a bad operator.

Each member of a batch has a system ``A u = r`` of its own with ``A = I + P``. For the posterior
covariance of an exact denoiser P is symmetric and positive semidefinite: ``p^T A p >= p^T p``,
``|A p| >= |p|``, and the solution is no longer than r. A learned Jacobian keeps none of
this, and a solver that trusts it can divide by zero. A member for which one of these bounds is
missed by more than a factor of ten, or whose product is not finite, is left at the best iterate so
far and reported as broken. With ``u = 0`` as the worst case, results are finite always.

References
----------
.. [1] Y. Saad, M. H. Schultz, "GMRES: A generalized minimal residual algorithm for solving
   nonsymmetric linear systems", SIAM J. Sci. Stat. Comput. 7, 1986.
.. [2] M. R. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems",
   J. Res. Nat. Bur. Stand. 49, 1952.
.. [3] F. Rozet et al., "Learning Diffusion Priors from Observations by Expectation
   Maximization", arXiv:2405.13712, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from xr_daisi.errors import SettingsError, problem

__all__ = ["KRYLOV_SOLVERS", "KrylovSolution", "Product", "cg", "gmres"]

BOUND = 0.1
"""Smallest accepted ``|A p| / |p|`` and ``p^T A p / p^T p``, in theory at least 1; and smallest
accepted ``|r| / |u|``, in theory at least 1 as well."""

Product = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps directions p, shape ``(batch, n)``, to ``A p`` and to ``G p``, shape ``(batch, m)``, for a
linear G whose value at the solution is wanted. Rows are independent systems."""


class KrylovSolution(NamedTuple):
    """Result of a solver, row by row.

    Attributes
    ----------
    solution : Tensor
        Approximate solution u, shape ``(batch, n)``.
    image : Tensor
        ``G u``, shape ``(batch, m)``, combined from products already computed.
    broken : Tensor of bool
        Rows stopped early because the operator misbehaved, shape ``(batch,)``.
    """

    solution: Tensor
    image: Tensor
    broken: Tensor


def gmres(product: Product, rhs: Tensor, iterations: int) -> KrylovSolution:
    """Minimise the residual over the Krylov space, from zero; exactly ``iterations`` products.

    Parameters
    ----------
    product : callable
        See :data:`Product`.
    rhs : Tensor
        Right-hand sides r, shape ``(batch, n)``, finite.
    iterations : int
        Dimension of the Krylov space, at least 1.

    Returns
    -------
    KrylovSolution
        A broken row has the solution of the largest Krylov space on which the operator is sound.

    References
    ----------
    Saad and Schultz 1986.
    """
    tiny = torch.finfo(rhs.dtype).eps
    norm = rhs.norm(dim=1)
    usable = norm > 0.0
    basis = [_normalised(rhs, norm, usable)]
    images: list[Tensor] = []
    columns: list[Tensor] = []  # of the Hessenberg matrix, one entry per basis vector
    sizes = torch.zeros(rhs.shape[0], dtype=torch.int64, device=rhs.device)
    unsound = torch.zeros_like(usable)
    for _ in range(iterations):
        w, image = product(basis[-1])
        sound = _finite_rows(w) & _finite_rows(image)
        unsound = unsound | (usable & ~sound)
        usable = usable & sound
        w = torch.where(usable[:, None], w, 0.0)
        images.append(torch.where(usable[:, None], image, 0.0))
        sizes = sizes + usable
        before = w.norm(dim=1)
        q = torch.stack(basis, dim=1)
        column = torch.zeros_like(q[:, :, 0])
        for _ in range(2):  # the second pass removes what rounding left in the first
            overlap = torch.einsum("bkn,bn->bk", q, w)
            w = w - torch.einsum("bkn,bk->bn", q, overlap)
            column = column + overlap
        norm_w = w.norm(dim=1)
        # A row whose new vector is rounding only has its exact solution in the space so far.
        usable = usable & (norm_w > 32.0 * tiny * before)
        last = torch.where(usable, norm_w, 0.0)
        columns.append(torch.cat([column, last[:, None]], dim=1))
        basis.append(_normalised(w, norm_w, usable))

    weights, bad = _least_squares(columns, norm, sizes)
    solution = torch.einsum("bk,bkn->bn", weights, torch.stack(basis[:-1], dim=1))
    image = torch.einsum("bk,bkm->bm", weights, torch.stack(images, dim=1))
    return KrylovSolution(solution, image, unsound | bad)


def _least_squares(columns: list[Tensor], norm: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Solve each row's Hessenberg problem on the largest sound leading part of it.

    Leading parts have decreasing smallest singular values, so the largest sound one is found by
    trying all. The matrices are a few numbers wide: double precision on the CPU is fastest.
    """
    iterations = len(columns)
    table = torch.zeros(len(norm), iterations + 1, iterations, dtype=norm.dtype, device=norm.device)
    for k, column in enumerate(columns):
        table[:, : k + 2, k] = column
    hessenberg = table.to("cpu", torch.float64)
    # An overflow here stands for a product as large as the number format: no sound operator.
    overflow = ~torch.isfinite(hessenberg)
    hessenberg = torch.where(overflow, 0.0, hessenberg)
    lengths = sizes.cpu()
    weights = torch.zeros(len(norm), iterations, dtype=torch.float64)
    bad = torch.zeros(len(norm), dtype=torch.bool)
    for k in range(1, iterations + 1):
        left, values, right = torch.linalg.svd(hessenberg[:, : k + 1, :k], full_matrices=False)
        within = lengths >= k
        sound = (values[:, -1] >= BOUND) & ~overflow[:, :, :k].any(dim=2).any(dim=1)
        bad |= within & ~sound
        scaled = norm.cpu().double()[:, None] * left[:, 0, :] / values.clamp_min(BOUND)
        candidate = torch.einsum("bij,bi->bj", right, scaled)
        weights[:, :k] = torch.where((within & sound)[:, None], candidate, weights[:, :k])
    return weights.to(norm.device, norm.dtype), bad.to(norm.device)


def cg(product: Product, rhs: Tensor, iterations: int) -> KrylovSolution:
    """Conjugate gradients from zero; exactly ``iterations`` products.

    Parameters
    ----------
    product : callable
        See :data:`Product`.
    rhs : Tensor
        Right-hand sides r, shape ``(batch, n)``, finite.
    iterations : int
        Number of steps, at least 1.

    Returns
    -------
    KrylovSolution
        A broken row has the iterate that made ``u^T A u / 2 - r^T u``, which conjugate gradients
        minimise, smallest.

    References
    ----------
    Hestenes and Stiefel 1952.
    """
    tiny = torch.finfo(rhs.dtype).eps
    norm_0 = rhs.norm(dim=1)
    residual, direction = rhs, rhs
    squared = residual.square().sum(dim=1)
    active = squared > 0.0
    broken = torch.zeros_like(active)
    u = torch.zeros_like(rhs)
    image: Tensor | None = None
    best: tuple[Tensor, Tensor, Tensor] | None = (
        None  # objective, solution and image of best iterate
    )
    for _ in range(iterations):
        w, g = product(direction)
        if image is None or best is None:
            image = torch.zeros_like(g)
            best = (torch.zeros_like(squared), u, image)
        length = direction.square().sum(dim=1)
        curvature = (direction * w).sum(dim=1)
        sound = _finite_rows(w) & _finite_rows(g) & (curvature >= BOUND * length)
        step = squared / torch.where(sound & active, curvature, 1.0)
        u_next = u + step[:, None] * direction
        residual_next = residual - step[:, None] * w
        image_next = image + step[:, None] * g
        # Iterates of CG grow towards the solution, which is no longer than r.
        sound &= u_next.norm(dim=1) * BOUND <= norm_0
        sound &= _finite_rows(residual_next) & _finite_rows(image_next)
        broken = broken | (active & ~sound)
        active = active & sound
        u = torch.where(active[:, None], u_next, u)
        image = torch.where(active[:, None], image_next, image)
        residual = torch.where(active[:, None], residual_next, residual)
        # r = rhs - A u, so that the objective needs no product of its own.
        objective = -0.5 * (u * (rhs + residual)).sum(dim=1)
        lower = objective < best[0]
        best = (
            torch.where(lower, objective, best[0]),
            torch.where(lower[:, None], u, best[1]),
            torch.where(lower[:, None], image, best[2]),
        )
        squared_next = residual.square().sum(dim=1)
        active = active & (squared_next.sqrt() > 32.0 * tiny * norm_0)
        ratio = squared_next / torch.where(squared > 0.0, squared, 1.0)
        direction = torch.where(active[:, None], residual + ratio[:, None] * direction, 0.0)
        squared = squared_next
    if image is None or best is None:
        raise SettingsError(problem("iterations", repr(iterations), "at least 1"))
    return KrylovSolution(
        torch.where(broken[:, None], best[1], u),
        torch.where(broken[:, None], best[2], image),
        broken,
    )


KRYLOV_SOLVERS = {"gmres": gmres, "cg": cg}


def _finite_rows(x: Tensor) -> Tensor:
    return torch.isfinite(x).all(dim=1)


def _normalised(x: Tensor, norm: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable[:, None], x / torch.where(usable, norm, 1.0)[:, None], 0.0)
