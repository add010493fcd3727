"""GGUF blocks encoded by us beside ggml's own encoders, on the same weights. Whole files: see gguf_perplexity.py.

    python benchmarks/gguf_blocks.py --llama-python LLAMA [--model SOURCE]

LLAMA is the Python of an environment with llama-cpp-python, whose libraries hold ggml's block encoders. Weights are
normal, heavy-tailed (products of two normals) and those of SOURCE: the down projections of its first, middle and last
layer. Importance is random for the first two, and for the last what calibration text gives. One line a form of weights,
a type, and without or with importance: relative error of both, and the share of blocks where ours is larger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    if sys.argv[1:] == ["worker"]:
        encode_by_ggml(json.load(sys.stdin))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--model")
    compare_blocks(parser.parse_args())


# --- in halfbyte's Python ---------------------------------------------------------------------------------------------

KINDS = ["Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"]


def compare_blocks(options: argparse.Namespace) -> None:
    import gguf
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(512, 1024, generator=generator)

    importance = torch.rand(1024, generator=generator) ** 2 + 0.01
    forms = {
        "normal": [(normal() * 0.02, importance)],
        "heavy-tailed": [(normal() * normal() * 0.02, importance)],
    }
    if options.model:
        forms["model"] = down_projections(options.model)
    print("relative error: root of (weighted) squared error over square; share of blocks where ours is larger")
    for form, matrices in forms.items():
        for name in KINDS:
            kind = getattr(gguf.GGMLQuantizationType, name)
            for weighed in (False, True):
                errors = [block_errors(w, v if weighed else None, kind, options.llama_python) for w, v in matrices]
                ours, ggml = (torch.cat([part[who] for part in errors]) for who in (0, 1))
                power = sum(float((w.square() * (v if weighed else 1)).sum()) for w, v in matrices)
                root = [(float(e.sum()) / power) ** 0.5 for e in (ours, ggml)]
                worse = 100 * float((ours > ggml * 1.0001 + 1e-12 * power / len(ours)).float().mean())
                note = "importance" if weighed else ""
                print(
                    f"{form:13}{name:6}{note:11} ours {root[0]:.5f}  ggml {root[1]:.5f}  worse {worse:.1f} %",
                    flush=True,
                )


def down_projections(spec: str) -> list[tuple]:
    """Weights and importance of three layers."""
    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.convert import ConvertOptions
    from halfbyte.convert.importance import measure_importance
    from halfbyte.convert.request import Silent

    checkpoint = Checkpoint(open_source(spec))
    found = measure_importance(checkpoint, ConvertOptions(samples=16), Silent())
    layers = sorted({0, checkpoint.config.num_layers // 2, checkpoint.config.num_layers - 1})
    return [
        (checkpoint.linear(f"model.layers.{n}.mlp.down_proj").float(), found[f"blk.{n}.ffn_down.weight"])
        for n in layers
    ]


def block_errors(w, importance, kind, llama_python: str):
    """The squared error of each block, weighed by importance [K] where it is given: ours, and ggml's."""
    import gguf
    import numpy as np
    import torch

    from halfbyte.checkpoint.ggml import encode

    ours = encode(w, kind, importance).numpy()
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/w.npy", w.numpy())
        if importance is not None:
            np.save(f"{folder}/importance.npy", importance.numpy())
        task = json.dumps({"folder": folder, "kind": int(kind)})
        subprocess.run([llama_python, __file__, "worker"], input=task, text=True, check=True)
        theirs = np.load(f"{folder}/out.npy").reshape(ours.shape)
    v = torch.ones(w.shape[1]) if importance is None else importance
    size = gguf.constants.GGML_QUANT_SIZES[kind][0]
    return [
        ((torch.from_numpy(gguf.dequantize(b, kind)) - w) ** 2 * v).double().view(-1, size).sum(1)
        for b in (ours, theirs)
    ]


# --- in llama-cpp-python's Python: numpy only -------------------------------------------------------------------------


def encode_by_ggml(task: dict) -> None:
    import ctypes

    import llama_cpp
    import numpy as np

    library = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype, long, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    folder = Path(task["folder"])
    w = np.ascontiguousarray(np.load(folder / "w.npy"))
    given = folder / "importance.npy"
    importance = np.ascontiguousarray(np.load(given)) if given.exists() else None
    out = np.zeros(w.size * 2, np.uint8)
    at = None if importance is None else importance.ctypes.data
    size = chunk(task["kind"], w.ctypes.data, out.ctypes.data, 0, *w.shape, at)
    np.save(folder / "out.npy", out[:size])


if __name__ == "__main__":
    main()
