"""What quantizing would take, for shapes too large to try: the plan that `halfbyte quantize` tells at the start.

    python benchmarks/quantize_plan.py llama-2-70b [--samples 128] [--effort default] [--memory 24GiB]
                                       [--device cuda --tflops 650]

Nothing is read or written but a config. Times follow from the speed of a float32 product on this machine, or from
--tflops for one that is not here. One JSON line an effort.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors
from halfbyte.checkpoint.size import awq_size
from halfbyte.checkpoint.source import TensorInfo
from halfbyte.cli.sizes import parse_size
from halfbyte.errors import QuantizeError
from halfbyte.quantize import QuantizeOptions, plan
from halfbyte.quantize.calibration import HELD_OUT

SHAPES = {  # hidden, MLP, blocks, heads, key-value heads, vocabulary
    "llama-2-7b": (4096, 11008, 32, 32, 32, 32000),
    "llama-2-13b": (5120, 13824, 40, 40, 40, 32000),
    "llama-2-70b": (8192, 28672, 80, 64, 8, 32000),
    "qwen2.5-32b": (5120, 27648, 64, 40, 8, 152064),
}
NAMES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


class Headers:
    """A source of which only the headers are there: all that a plan asks for."""

    folder: Path | None = None

    def __init__(self, name: str) -> None:
        self.spec = name
        self.config = {
            **dict(zip(NAMES, SHAPES[name], strict=True)), "model_type": "llama", "rms_norm_eps": 1e-5,
            "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096, "tie_word_embeddings": False,
        }  # fmt: skip

    def tensors(self) -> dict[str, TensorInfo]:
        shapes = expected_tensors(ModelConfig.from_dict(self.config, self.spec), None)
        half = torch.float16
        return {name: TensorInfo(half, s, 2 * torch.Size(s).numel()) for name, s in shapes.items()}

    def files(self) -> list[str]:
        return []

    def file(self, name: str) -> bytes | None:
        return None

    def origin(self, name: str) -> str:
        return self.spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--effort", nargs="+", default=["default"])
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--memory", default="1TiB")
    parser.add_argument("--tflops", type=float)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda needs --tflops, and no GPU")
    given = parser.parse_args()
    if given.tflops:
        plan.flops_per_second = lambda device: given.tflops * 1e12
    for effort in given.effort:
        options = QuantizeOptions(
            effort=effort, samples=given.samples, seq_len=given.seq_len, memory=parse_size(given.memory)
        )
        row = {"shape": given.shape, "effort": effort, "samples": f"{given.samples} x {given.seq_len}"}
        checkpoint, samples = Checkpoint(Headers(given.shape)), given.samples + HELD_OUT
        try:
            out = awq_size(checkpoint.config, given.group_size)
            told = plan.make_plan(checkpoint, given.group_size, samples, options, torch.device(given.device), [], out)
        except QuantizeError as error:
            row["refused"] = str(error)
        else:
            row |= {
                "memory_GiB": round(told.memory / 2**30, 1), "spilled_GB": round(told.spilled / 1e9, 1),
                "disk_GB": round(told.disk / 1e9, 1), "seconds": round(told.seconds),
            }  # fmt: skip
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
