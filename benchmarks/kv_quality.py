"""What keys and values of 8 bits cost: perplexity with them rounded to e4m3, beside the same model without.

    python benchmarks/kv_quality.py MODEL --text FILE [--context 512] [--windows 16]

On a CPU, where the numbers are rounded as `kv_cache_dtype="fp8"` keeps them on a GPU. A JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate import perplexity as measuring
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network


class Rounded(WholeSequences):
    """Keys and values as e4m3 has them."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (x.to(torch.float8_e4m3fn).to(x.dtype) for x in (k, v))
        return super().__call__(layer, q, k, v)


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
    found = {}
    for name, attend in (("float", WholeSequences), ("fp8", Rounded)):
        losses = []
        for window in windows:
            hidden = network.forward(window, torch.arange(len(window)), attend(network.config, 1))
            logits = network.logits(hidden[:-1])
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
        found[name] = round(float(torch.tensor(losses).mean().exp()), 3)
    print(json.dumps({"model": given.model, "windows": given.windows, "context": given.context, "perplexity": found}))


if __name__ == "__main__":
    main()
