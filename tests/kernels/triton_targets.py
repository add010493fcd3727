"""Compiles every Triton kernel that a model needs for a GPU that is not here: `python triton_targets.py sm_75 [few]`.

few: the quicker ones. A line each: the kernel and the bytes of shared memory that a block takes. Ends with 1 if one takes more than there is.
"""

from __future__ import annotations

import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from halfbyte.kernels.triton import linear, paged_attention, rope_store, tiles

TARGETS = {  # and the shared memory that a block may have there
    "sm_75": (GPUTarget("cuda", 75, 32), 64 * 1024),
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_120": (GPUTarget("cuda", 120, 32), 99 * 1024),
    "gfx90a": (GPUTarget("hip", "gfx90a", 64), 64 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
    "gfx1100": (GPUTarget("hip", "gfx1100", 32), 64 * 1024),
}
FLOATS = {"scale", "eps"}
TYPES = {
    "words": "*i32", "meta": "*fp16", "x": "*fp16", "parts": "*fp32", "weight": "*fp16", "bias": "*fp32",
    "q": "*fp16", "k_cache": "*fp16", "v_cache": "*fp16", "k_scales": "*fp32", "v_scales": "*fp32", "weights": "*fp32",
    "tables": "*i32", "query_start": "*i32", "context_lens": "*i32", "qkv": "*fp16", "cos": "*fp32", "sin": "*fp32",
    "q_out": "*fp16", "slots": "*i64", "q_norm": "*fp32", "k_norm": "*fp32",
    "k_fresh": "*fp16", "v_fresh": "*fp16",
}  # fmt: skip
FEW = ("product g128", "product g32", "matrix g64", "finish 2", "rotation int8", "pieces")
INT8 = {"k_cache": "*i8", "v_cache": "*i8"}
ATTENTION = {"BLOCK": 16, "D": 128, "WIDTH": 128, "GROUP": 4, "LENGTH": 256, "TILED": False, "ONLY": 0}
KEPT = {"BLOCK": 16, "D": 128, "WIDTH": 128, "NORMS": True, "SOME": 1, "TOP": 127, "FRESH": True, "TILED": True}


def kernels(target: str):
    """Name, function, what is set at compile time, types that differ, warps."""
    rows = 1 if target == "sm_75" else 16
    for group in (128, 64, 32):
        sizes = {"K": 4096, "GROUP": group, "TILES": 2, "ROWS": rows}
        yield f"product g{group}", linear._multiply_tiles, sizes, {}, 1
        yield f"matrix g{group}", tiles._dequantize, {"GROUP": group, "TILES": 2, "UNITS": 4}, {"out": "*fp16"}, 1
    sizes = {"OUTPUTS": 32, "ROWS": rows, "INPUTS": 64}
    yield "product of floats", linear._multiply_floats, sizes, {}, 1
    for output, kind in ((0, "*fp16"), (1, "*fp32"), (2, "*fp16")):
        yield f"finish {output}", linear._finish, {"BIAS": True, "OUTPUT": output, "BLOCK": 256}, {"out": kind}, 4
    for name, types in (("", {}), (" int8", INT8)):
        int8 = bool(types)
        yield f"rotation{name}", rope_store._rope_store, KEPT | {"INT8": int8}, types, 1
        for M, pieces, out in ((16, 2, "*fp32"), (64, 1, "*fp16")):
            sizes = ATTENTION | {
                "N": 32 if target == "sm_75" else 64,
                "M": M,
                "PIECES": pieces,
                "INT8": int8,
                "FIXED": False,
            }
            yield f"attention of {M}{name}", paged_attention._attend, sizes, types | {"out": out}, 4
    together = {"D": 128, "WIDTH": 128, "PIECES": 4, "TILED": False}
    yield "pieces", paged_attention._put_together, together, {"out": "*fp16"}, 1


def main(name: str, few: bool) -> int:
    target, most = TARGETS[name]
    failed = 0
    for title, fn, constants, others, warps in kernels(name):
        if few and title not in FEW:
            continue
        types = TYPES | others
        signature = {
            a: "constexpr" if a in constants else types.get(a, "fp32" if a in FLOATS else "i32") for a in fn.arg_names
        }
        aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(fn.arg_names) if signature[a].startswith("*")}
        source = ASTSource(fn, signature, constants, aligned)
        shared = compile(source, target=target, options={"num_warps": warps, "num_stages": 2}).metadata.shared
        print(f"{name} {title}: {shared}", flush=True)
        failed |= shared > most
    return failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1], "few" in sys.argv[2:]))
