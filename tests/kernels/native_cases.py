"""What the native kernels should compute, rounding and all, in plain torch; and the libraries that run here."""

from __future__ import annotations

import functools

import pytest
import torch

from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.kernels.cpu.build import FLAGS, find_compiler, machine_flags
from halfbyte.kernels.cpu.library import Library, open_library
from halfbyte.kernels.cpu.native_kernels import NativeKernels
from halfbyte.kernels.interface import AfterAttention, LinearWeight, Span

HERE = [name for name, (needs, _) in FLAGS.items() if set(needs.split()) <= machine_flags()]


@functools.cache
def library(name: str) -> Library:
    if find_compiler() is None:
        pytest.skip("no C compiler")
    found = open_library(name)
    assert found is not None
    return found


def native(name: str = HERE[0], *, adaptable: bool = False) -> NativeKernels:
    return NativeKernels(library(name), adaptable=adaptable)


def int4(n: int, k: int, group: int, seed: int = 0) -> Int4Weight:
    g = torch.Generator().manual_seed(seed)
    scale = (torch.rand(n, k // group, generator=g) * 0.02 + 0.001).half()
    q = torch.randint(0, 16, (n, k), generator=g, dtype=torch.uint8)
    return Int4Weight(q, scale, torch.randint(0, 16, (n, k // group), generator=g, dtype=torch.uint8))


def linear_weight(n: int, k: int, group: int, *, bias: bool = False, seed: int = 0) -> LinearWeight:
    g = torch.Generator().manual_seed(seed + 1)
    return LinearWeight(int4(n, k, group, seed), torch.randn(n, generator=g) if bias else None)


def a_span(hidden=64, attended=96, mlp=128, out=80, group=32, *, after=True, qkv=True, bias=False, seed=0) -> Span:
    g = torch.Generator().manual_seed(seed)

    def linear(n: int, k: int) -> LinearWeight:
        weight = linear_weight(n, k, k if group == -1 else group, bias=bias, seed=seed)
        weight.weight.z.clamp_(5, 10)  # so that sums stay about as large as their terms
        return weight

    norm = [1 + torch.randn(hidden, generator=g) / 8 for _ in range(2)]
    second_half = AfterAttention(linear(hidden, attended), norm[0], linear(2 * mlp, hidden), linear(hidden, mlp))
    return Span(1e-5, second_half if after else None, norm[1], linear(out, hidden) if qkv else None)


def rounded(x: torch.Tensor, most: int = 127) -> torch.Tensor:
    """What is left of activations [T, K]: 8 bits in blocks of 32, integers from -most to most."""
    blocks = x.view(len(x), -1, 32)
    top = blocks.abs().amax(-1, keepdim=True)
    q = (blocks * torch.where(top > 1e-35, most / top, 0)).round()
    return (q.double() * (top / most).double()).flatten(1)


def exact(x: torch.Tensor, w: LinearWeight) -> torch.Tensor:
    """The product of the rounded activations, in double precision."""
    y = rounded(x) @ w.weight.dequantize(torch.float64).T
    return y if w.bias is None else y + w.bias


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x.double() - y.double()).norm() / y.double().norm().clamp(min=1e-30)).item()
