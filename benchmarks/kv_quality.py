"""What keys and values of 8 bits cost: perplexity with them rounded, beside the same model without.

    python benchmarks/kv_quality.py MODEL --text FILE [--context 512] [--windows 16]

On a CPU, where the numbers are rounded as kv_cache_dtype="fp8" (e4m3) and "int8" (with a scale for each token of each
head) keep them on a GPU. kl: of the distributions of the next token, in nats, from the unrounded ones. A JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from closeness import closeness

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate import perplexity as measuring
from halfbyte.kernels.reference import to_int8
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network


def as_fp8(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float8_e4m3fn).to(x.dtype)


def as_int8(x: torch.Tensor) -> torch.Tensor:
    q, scale = to_int8(x)
    return q * scale[..., None]


class Rounded(WholeSequences):
    """Keys and values as a cache has them."""

    def __init__(self, config: ModelConfig, batch: int, rounded: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(config, batch)
        self.rounded = rounded

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return super().__call__(layer, q, self.rounded(k), self.rounded(v))


KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"float": lambda x: x, "fp8": as_fp8, "int8": as_int8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    source = open_source(given.model)
    network, tokenizer = load_network(Checkpoint(source), "float32", device="cpu"), Tokenizer.from_source(source)
    ids = measuring.tokenize(tokenizer, measuring.read_text(given.text))
    windows = measuring.cut_windows(ids, given.context, given.windows)

    def log_probabilities(kind: str, window: torch.Tensor) -> torch.Tensor:
        attend = Rounded(network.config, 1, KINDS[kind])
        hidden = network.forward(window, torch.arange(len(window)), attend)
        return network.logits(hidden[:-1]).log_softmax(-1)

    found = closeness(KINDS, windows, log_probabilities)
    print(json.dumps({"model": given.model, "windows": given.windows, "context": given.context, **found}))


if __name__ == "__main__":
    main()
