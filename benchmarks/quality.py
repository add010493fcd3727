"""Perplexity and KL divergence of our AWQ beside plain rounding to nearest: one JSON object a line.

    python benchmarks/quality.py SOURCE --text FILE [--group-sizes 64,32] [--methods rtn,halfbyte] [--calib builtin]
                                 [--context 1024] [--windows 32] [--samples 64]

Rounding to nearest is asymmetric, a group's range being that of its weights widened to include 0, nothing scaled or
clipped. Both are measured in float32 against the unquantized model, by the protocol of `halfbyte eval perplexity`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate.perplexity import cut_windows, measure, read_text, tokenize
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.loader import load_network, read_blocks
from halfbyte.models.network import Network
from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.rounding import quantize_weight, ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.models.network import Block


def rounded_blocks(checkpoint: Checkpoint, group_size: int) -> Iterator[Block]:
    for block in read_blocks(checkpoint):
        for linear in block.linears().values():
            weight = linear.weight.float()
            linear.weight = quantize_weight(weight, *ranges(weight, group_size))
        yield block


def rounded_to_nearest(checkpoint: Checkpoint, group_size: int) -> Network:
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    head = embedding if checkpoint.config.tie_word_embeddings else checkpoint.tensor("lm_head.weight")
    norm = checkpoint.tensor("model.norm.weight")
    blocks = rounded_blocks(checkpoint, group_size)
    return Network(checkpoint.config, embedding, blocks, norm, head, ReferenceKernels())


def ours(source: str, folder: Path, group_size: int, args: argparse.Namespace) -> tuple[Network, float]:
    options = QuantizeOptions(group_size=group_size, calib=args.calib, samples=args.samples)
    report = quantize(source, folder / str(group_size), options)
    return load_network(Checkpoint(open_source(folder / str(group_size))), "float32"), report.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--group-sizes", default="64,32")
    parser.add_argument("--methods", default="rtn,halfbyte")
    parser.add_argument("--calib", default="builtin")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--samples", type=int, default=64)
    args = parser.parse_args()
    checkpoint = Checkpoint(open_source(args.source))
    windows = cut_windows(
        tokenize(Tokenizer.from_source(checkpoint.source), read_text(args.text)), args.context, args.windows
    )
    reference = load_network(checkpoint, "float32")
    with tempfile.TemporaryDirectory() as folder:
        for group_size in map(int, args.group_sizes.split(",")):
            for method in args.methods.split(","):
                seconds = 0.0
                if method == "rtn":
                    network = rounded_to_nearest(checkpoint, group_size)
                else:
                    network, seconds = ours(args.source, Path(folder), group_size, args)
                with torch.inference_mode():
                    result = measure(network, windows, reference)
                row = {
                    "method": method,
                    "group_size": group_size,
                    "perplexity": round(result.perplexity, 3),
                    "reference": round(result.reference_perplexity or 0, 3),
                    "kl_divergence": round(result.kl_divergence or 0, 5),
                    "top1_agreement": round(result.top1_agreement or 0, 4),
                    "quantize_s": round(seconds, 1),
                }
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
