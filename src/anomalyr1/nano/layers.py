"""Norm, rotary embedding and attention as Qwen2.5-VL has them, fast to train on CPUs in bfloat16.

The built-in norm takes several times as long there with its gradient (`benchmarks/nano_speed.py`).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, NestedIOFunction


class Rotary(NamedTuple):
    """A rotary embedding of tokens whose heads stand one behind the other."""

    cos: Tensor
    """(..., S, heads * D)"""
    sin: Tensor
    """The same shape, negative where the second half of a head is taken from the first."""
    swap: Tensor
    """(heads * D, heads * D) permutation that swaps the halves of every head."""


def rotary(angles: Tensor, heads: int, dtype: torch.dtype) -> Rotary:
    """The embedding by (..., S, D / 2) angles, the same for every head."""
    cos, sin = angles.cos(), angles.sin()
    once_a_head = [1] * (angles.ndim - 1) + [heads]
    return Rotary(
        torch.cat([cos, cos], -1).repeat(once_a_head).to(dtype),
        torch.cat([-sin, sin], -1).repeat(once_a_head).to(dtype),
        _swap(heads, angles.shape[-1], dtype),
    )


@cache
def _swap(heads: int, half: int, dtype: torch.dtype) -> Tensor:
    """The permutation of a `Rotary`, computed once: decoding asks for it at every token."""
    with torch.inference_mode(False):  # training uses it, too
        columns = torch.arange(2 * half * heads)
        swap = torch.zeros(len(columns), len(columns), dtype=dtype)
        swap[columns, columns.view(heads, 2, half).flip(1).flatten()] = 1
    return swap


def rotate(x: Tensor, by: Rotary) -> Tensor:
    """(..., S, F) queries or keys with their places; F may be that of fewer heads than `by` is for."""
    width = x.shape[-1]
    rotated: Tensor = _Rotate.apply(x, by.cos[..., :width], by.sin[..., :width], by.swap[:width, :width])
    return rotated


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """(..., D) states over their root mean square, times (D,) `weight`."""
    normed: Tensor = _RmsNorm.apply(x, weight, epsilon)
    return normed


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax attention written out: (..., Q, D) outputs and (..., Q, K) attention weights.

    `q` is (..., Q, D), `k` and `v` are (..., K, D); `mask` is added to the (..., Q, K) logits.
    """
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    weights = torch.softmax(logits if mask is None else logits + mask, -1)
    return torch.matmul(weights, v), weights


class _Rotate(torch.autograd.Function):
    """x * cos + swapped(x) * sin; a product with a permutation swaps faster than moving narrow halves."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin, swap)
        return (x * cos).addcmul_(x @ swap, sin)

    @staticmethod
    def backward(ctx: NestedIOFunction, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin, swap = ctx.saved_tensors
        (grad,) = grads
        return (grad * cos).add_((grad * sin) @ swap), None, None, None


class _RmsNorm(torch.autograd.Function):
    """x / rms * weight, whose gradient needs two products with vectors instead of passes over everything."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = square.add_(epsilon).rsqrt_()
        normed: Tensor = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: NestedIOFunction, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        (grad,) = grads
        products = (grad * normed).reshape(-1, len(weight))
        mean = torch.mv(products, weight).view(scale.shape).div_(len(weight))
        return (grad * weight).addcmul_(normed, mean, value=-1).mul_(scale), products.sum(0), None
