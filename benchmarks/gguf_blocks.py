"""GGUF blocks encoded by us beside ggml's own encoders, on the same random weights. Files: see gguf_perplexity.py.

    python benchmarks/gguf_blocks.py --llama-python LLAMA

LLAMA is the Python of an environment with llama-cpp-python, whose libraries hold ggml's block encoders.
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
    compare_blocks(parser.parse_args())


def ask_worker(options: argparse.Namespace, **task: object) -> None:
    command = [options.llama_python, __file__, "worker"]
    subprocess.run(command, input=json.dumps(task), text=True, check=True)


# --- in halfbyte's Python ---------------------------------------------------------------------------------------------


def compare_blocks(options: argparse.Namespace) -> None:
    import gguf
    import numpy as np
    import torch

    from halfbyte.checkpoint.ggml import encode

    generator = torch.Generator().manual_seed(0)
    importance = torch.rand(1024, generator=generator) ** 2 + 0.01
    kinds = ["Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"]
    weights = {
        "normal": torch.randn(512, 1024, generator=generator) * 0.02,
        "heavy-tailed": torch.randn(512, 1024, generator=generator)
        * torch.randn(512, 1024, generator=generator)
        * 0.02,
    }
    print("relative error (root of weighted squared error over square); share of blocks where ours is worse")
    with tempfile.TemporaryDirectory() as folder:
        for form, w in weights.items():
            np.save(f"{folder}/w.npy", w.numpy())
            np.save(f"{folder}/importance.npy", importance.numpy())
            ask_worker(
                options,
                folder=folder,
                kinds={k: int(getattr(gguf.GGMLQuantizationType, k)) for k in kinds},
            )
            for kind in kinds:
                for weighted in (False, True):
                    t = getattr(gguf.GGMLQuantizationType, kind)
                    v = importance if weighted else torch.ones(1024)
                    ours = encode(w, t, importance if weighted else None).numpy()
                    theirs = np.load(f"{folder}/{kind}-{weighted}.npy").reshape(ours.shape)
                    size = gguf.constants.GGML_QUANT_SIZES[t][0]
                    errors = [
                        ((torch.from_numpy(gguf.dequantize(b, t)) - w) ** 2 * v).view(-1, size).sum(1)
                        for b in (ours, theirs)
                    ]
                    root = [float((e.sum() / (w**2 * v).sum()).sqrt()) for e in errors]
                    worse = 100 * float((errors[0] > errors[1] * 1.0001).float().mean())
                    note = "importance" if weighted else ""
                    print(f"{form:13}{kind:6}{note:11} ours {root[0]:.5f}  ggml {root[1]:.5f}  worse {worse:.1f} %")


# --- in llama-cpp-python's Python: numpy only -------------------------------------------------------------------------


def encode_by_ggml(task: dict) -> None:
    import ctypes

    import llama_cpp
    import numpy as np

    library = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype, long, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, pointer]
    w = np.ascontiguousarray(np.load(task["folder"] + "/w.npy"))
    importance = np.ascontiguousarray(np.load(task["folder"] + "/importance.npy"))
    for kind, number in task["kinds"].items():
        for weighted in (False, True):
            out = np.zeros(w.size * 2, np.uint8)
            size = chunk(
                number, w.ctypes.data, out.ctypes.data, 0, *w.shape, importance.ctypes.data if weighted else None
            )
            np.save(f"{task['folder']}/{kind}-{weighted}.npy", out[:size])


if __name__ == "__main__":
    main()
