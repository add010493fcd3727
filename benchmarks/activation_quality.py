"""What activations of 8 bits cost beside 4-bit weights: perplexity with every linear's input rounded, and without.

    python benchmarks/activation_quality.py MODEL --text FILE [--context 512] [--windows 16]

On a CPU, in float32. int8: whole numbers to 127 times a scale for each token, as compute="w4a8" has them on a GPU; fp8:
e4m3 times one; int8 of 32: a scale for each 32 inputs, as the CPU's fast kernels have it. The head is not rounded. kl:
of the distributions of the next token, in nats, from the unrounded ones. A JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from closeness import closeness

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate import perplexity as measuring
from halfbyte.kernels import reference
from halfbyte.kernels.interface import LinearWeight
from halfbyte.models import loader
from halfbyte.models.attend import WholeSequences


def int8(x: torch.Tensor) -> torch.Tensor:
    q, scale = reference.to_int8(x)
    return q * scale[..., None]


def fp8(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True).clamp_(min=1e-30) / 448
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


def int8_of_32(x: torch.Tensor) -> torch.Tensor:
    return int8(x.view(len(x), -1, 32)).flatten(1)


WAYS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float": lambda x: x, "int8": int8, "fp8": fp8, "int8 of 32": int8_of_32,
}  # fmt: skip


class Kernels(reference.ReferenceKernels):
    """The reference's, with inputs of products as `way` says at the time."""

    way = "float"

    def span(self, p):  # type: ignore[no-untyped-def]
        ready = reference.Span(
            p.eps,
            p.after
            and reference.AfterAttention(
                self._float(p.after.o), p.after.norm.float(), self._float(p.after.gate_up), self._float(p.after.down)
            ),
            p.norm.float(),
            p.qkv and self._float(p.qkv),
        )

        def product(x: torch.Tensor, w: LinearWeight, name: str) -> torch.Tensor:
            return reference.linear(WAYS[self.way](x), w, name)

        return lambda attended, residual, adapt=None: reference.span(ready, attended, residual, product)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    source, kernels = open_source(given.model), Kernels()
    loader.pick_kernels = lambda *_, **__: kernels  # type: ignore[assignment]
    network, tokenizer = loader.load_network(Checkpoint(source), "float32", device="cpu"), Tokenizer.from_source(source)
    ids = measuring.tokenize(tokenizer, measuring.read_text(given.text))

    def log_probabilities(way: str, window: torch.Tensor) -> torch.Tensor:
        kernels.way = way
        hidden = network.forward(window, torch.arange(len(window)), WholeSequences(network.config, 1))
        return network.logits(hidden[:-1]).log_softmax(-1)

    windows = measuring.cut_windows(ids, given.context, given.windows)
    found = closeness(WAYS, windows, log_probabilities)
    print(json.dumps({"model": given.model, "windows": given.windows, "context": given.context, **found}))


if __name__ == "__main__":
    main()
