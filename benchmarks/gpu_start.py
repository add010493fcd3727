"""From files in the page cache to the first token: the Llama-2-7B shape in AWQ g128, random weights, one GPU.

    python benchmarks/gpu_start.py [--folder FOLDER] [--times 2]

Writes the repository (3.9 GB) into FOLDER unless it is there, reads its files once, and starts a new process each time;
the first may have kernels to compile. A JSON line each: seconds from the process's start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_TOKEN = """
import json, sys, time
from halfbyte import LLM, SamplingParams
imported = time.time()
llm = LLM(sys.argv[1], device="cuda")
loaded = time.time()
llm.generate("w1 w2 w3", SamplingParams(max_tokens=1, ignore_eos=True))
print(json.dumps({"imported": imported, "loaded": loaded, "token": time.time()}))
"""


def write(folder: Path) -> None:
    """A repository of random weights."""
    import torch
    from gpu_decode import GROUP, SHAPE, D, F, V, words
    from safetensors.torch import save_file

    block = {
        "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
        "modules_to_not_convert": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(SHAPE | {"quantization_config": block, "torch_dtype": "float16"}))
    words().save(str(folder / "tokenizer.json"))
    index = {}
    linears = {f"self_attn.{n}_proj": (D, D) for n in "qkvo"} | {f"mlp.{n}_proj": (F, D) for n in ("gate", "up")}
    for shard in range(5):
        tensors = {}
        for layer in range(8 * shard, min(8 * shard + 8, SHAPE["num_hidden_layers"])):
            for name, (n, k) in (linears | {"mlp.down_proj": (D, F)}).items():
                prefix = f"model.layers.{layer}.{name}"
                tensors[f"{prefix}.qweight"] = torch.randint(-(2**31), 2**31, (k, n // 8), dtype=torch.int32)
                tensors[f"{prefix}.qzeros"] = torch.full((k // GROUP, n // 8), 0x77777777, dtype=torch.int32)
                tensors[f"{prefix}.scales"] = torch.full((k // GROUP, n), 0.2 * k**-0.5, dtype=torch.float16)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(D, dtype=torch.float16)
        if shard == 4:
            tensors["model.norm.weight"] = torch.ones(D, dtype=torch.float16)
            tensors["model.embed_tokens.weight"] = torch.randn(V, D).half()
            tensors["lm_head.weight"] = (torch.randn(V, D) * D**-0.5).half()
        file = f"model-{shard + 1:05d}-of-00005.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "halfbyte-7b-awq"))
    parser.add_argument("--times", type=int, default=2)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder / "model.safetensors.index.json").exists():
        write(given.folder)
    for file in given.folder.glob("*.safetensors"):
        with file.open("rb") as handle:
            while handle.read(1 << 26):
                pass
    for _ in range(given.times):
        begin = time.time()
        command = [sys.executable, "-c", FIRST_TOKEN, given.folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        moments = json.loads(done.stdout.splitlines()[-1])
        print(
            json.dumps({"who": "halfbyte"} | {name: round(at - begin, 2) for name, at in moments.items()}), flush=True
        )


if __name__ == "__main__":
    main()
