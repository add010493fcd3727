"""Many requests at once of the Llama-2-7B shape, random AWQ weights of g128 (or float16), on one GPU.

    python benchmarks/gpu_serving.py [--weights awq|fp16] [--kv-cache-dtype fp8|int8]
        [--requests 1000] [--prompt 512] [--output 128]

All requests are there from the start; prompt and answer tokens a second until the last is done, a JSON line. The peer
is measured by gpu_vllm.py in the same machine's life.
"""

from __future__ import annotations

import argparse
import json

import torch
from gpu_decode import build, seconds

from halfbyte.kernels.gpu.gpu_pass import SIZES


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", choices=("awq", "fp16"), default="awq")
    parser.add_argument("--kv-cache-dtype", choices=("auto", "fp8", "int8"), default="auto")
    for name, value in (("requests", 1000), ("prompt", 512), ("output", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    engine, _ = build(given.weights, given.kv_cache_dtype, kv_cache=None)  # what is free, as always
    for batch in SIZES:  # what passes need is recorded before
        seconds(engine, batch, given.prompt, 3)
    took = seconds(engine, given.requests, given.prompt, given.output)
    found = {
        "who": "halfbyte", "device": torch.cuda.get_device_name(), **vars(given),
        "total_tok_s": round(given.requests * (given.prompt + given.output) / took),
        "peak_GB": round(torch.cuda.max_memory_allocated() / 1e9, 1),
    }  # fmt: skip
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
