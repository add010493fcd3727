"""Quantizing one model in several ways and measuring each: which group size and method is worth its bytes?

Each cell (method, group size) is quantized, measured against the unquantized model and forgotten but for its figures,
which are kept in a file of their own: a comparison that was stopped goes on with the first cell that has none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import EvaluationError
from halfbyte.evaluate.kept import kept_or, settle, write_whole
from halfbyte.evaluate.perplexity import cut_windows, measure, tokenize
from halfbyte.evaluate.reference import keep_reference
from halfbyte.models.loader import exact_network
from halfbyte.quantize import QuantizeOptions, quantize
from halfbyte.quantize.effort import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from halfbyte.evaluate.reference import KeptReference

METHODS = tuple(RECIPES)
DEFAULT_METHODS = tuple(method for method in METHODS if method != "fast")


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What is compared, on what. Raises EvaluationError for a method that is not known."""

    text: str  # the text itself
    text_name: str
    group_sizes: tuple[int, ...] = (128, 64, 32)
    methods: tuple[str, ...] = DEFAULT_METHODS
    context: int = 1024
    windows: int | None = None  # None: all whole ones
    calib: str = "builtin"
    samples: int = 64
    seq_len: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.group_sizes):
            raise EvaluationError(f"--group-sizes has {min(self.group_sizes)}; they must be positive")
        for method in self.methods:
            if method not in METHODS:
                raise EvaluationError(f"--methods has {method!r}; there are {', '.join(METHODS)}")


@dataclass(frozen=True, slots=True)
class Cell:
    """One way of quantizing: its figures, or why it was left out."""

    method: str
    group_size: int
    perplexity: float | None = None
    kl_divergence: float | None = None  # KL(reference || model), nats
    top1_agreement: float | None = None
    bytes: int | None = None  # of tensor data on disk
    seconds: float | None = None  # of quantizing
    skipped: str | None = None


@dataclass(slots=True)
class Comparison:
    """All cells, the reference's own figures, and under what protocol they were measured."""

    protocol: dict[str, Any]
    reference_perplexity: float
    reference_bytes: int
    cells: list[Cell] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class Progress(Protocol):
    """What a caller may show of a comparison."""

    def start(self, what: str, total: int) -> None:
        """A stretch of `total` windows begins."""

    def step(self, done: int) -> None:
        """So many of them are done."""

    def cell(self, cell: Cell, kept: bool) -> None:
        """A cell is finished; `kept`: an earlier run had finished it."""


def compare(source: str, out: Path, options: CompareOptions, progress: Progress) -> Comparison:
    """Compare, keeping what is finished in the folder `out`.

    A group size that the model's layers do not allow is left out with the reason. Raises EvaluationError if the source
    is quantized already, or if `out` holds cells of another protocol.
    """
    checkpoint = Checkpoint(open_source(source))
    if checkpoint.container is not None:
        raise EvaluationError(f"{source} is already quantized; compare ways of quantizing the model it was made from")
    ids = tokenize(Tokenizer.from_source(checkpoint.source), options.text)
    windows = cut_windows(ids, options.context, options.windows)
    protocol = protocol_of(checkpoint, windows, options)
    settle(out, protocol)
    bench = Bench(source, out, options, windows, progress)
    progress.start("reference", len(windows))
    bench.reference = keep_reference(checkpoint, windows, out / "reference.safetensors", progress.step)
    own = kept_or(out / "reference.json", lambda: bench.reference_figures(checkpoint))
    comparison = Comparison(protocol, own["perplexity"], own["bytes"])
    for group_size in options.group_sizes:
        reason = why_not(checkpoint, group_size)
        for method in options.methods:
            cell, kept = (Cell(method, group_size, skipped=reason), False) if reason else bench.cell(method, group_size)
            comparison.cells.append(cell)
            progress.cell(cell, kept)
    write_whole(out / "comparison.json", comparison.as_dict())
    return comparison


class Bench:
    """Quantizes and measures, always in the same way."""

    reference: KeptReference

    def __init__(
        self, source: str, out: Path, options: CompareOptions, windows: torch.Tensor, progress: Progress
    ) -> None:
        self.source, self.out, self.options = source, out, options
        self.windows, self.progress = windows, progress

    def cell(self, method: str, group_size: int) -> tuple[Cell, bool]:
        """A cell, and whether it was already there."""
        path = self.out / "cells" / f"{method}-g{group_size}.json"
        kept = path.is_file()
        return Cell(**kept_or(path, lambda: asdict(self._measured(method, group_size)))), kept

    def reference_figures(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The unquantized model's own perplexity and size."""
        self.progress.start("reference's own perplexity", len(self.windows))
        found = measure(exact_network(checkpoint), self.windows, None, self.progress.step)
        return {"perplexity": found.perplexity, "bytes": sum(i.nbytes for i in checkpoint.source.tensors().values())}

    def _measured(self, method: str, group_size: int) -> Cell:
        folder = self.out / "model"
        options = self.options
        settings: dict[str, Any] = {
            "group_size": group_size,
            "calib": options.calib,
            "samples": options.samples,
            "seq_len": options.seq_len,
            "seed": options.seed,
            "overwrite": True,
            "effort": method,
        }
        self.progress.start(f"{method} g{group_size}", len(self.windows))
        started = time.perf_counter()
        report = quantize(self.source, folder, QuantizeOptions(**settings))
        seconds = round(time.perf_counter() - started, 2)
        network = exact_network(Checkpoint(open_source(folder)))
        found = measure(network, self.windows, self.reference, self.progress.step)
        shutil.rmtree(folder)
        return Cell(
            method, group_size, found.perplexity, found.kl_divergence, found.top1_agreement, report.out_bytes, seconds
        )


def why_not(checkpoint: Checkpoint, group_size: int) -> str | None:
    """Why a model cannot be quantized in groups of this size, or None."""
    for prefix, (_, k) in checkpoint.linears.items():
        if k % group_size:
            return f"{group_size} does not divide the {k} inputs of {prefix}"
    return None


def protocol_of(checkpoint: Checkpoint, windows: torch.Tensor, options: CompareOptions) -> dict[str, Any]:
    """All that the figures depend on but method and group size."""
    tensors = {name: [str(i.dtype), list(i.shape)] for name, i in sorted(checkpoint.source.tensors().items())}
    digest = hashlib.sha256(json.dumps([checkpoint.source.config, tensors], sort_keys=True).encode())
    digest.update(checkpoint.tensor("model.norm.weight").float().numpy().tobytes())
    return {
        "model": checkpoint.source.spec,
        "model_sha256": digest.hexdigest(),  # of config, names, shapes and the last norm
        "text": options.text_name,
        "tokens_sha256": hashlib.sha256(windows.numpy().tobytes()).hexdigest(),
        "context": windows.shape[1],
        "windows": windows.shape[0],
        "predictions": windows.shape[0] * (windows.shape[1] - 1),
        "compute": "float32",
        "calib": options.calib,
        "samples": options.samples,
        "seq_len": options.seq_len,
        "seed": options.seed,
    }
