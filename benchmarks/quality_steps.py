"""What a recipe's steps and constants are worth, on several texts at once: one walk through the blocks, no files.

    python benchmarks/quality_steps.py SOURCE --calib FILE --text FILE [--text FILE] [--group-size 64] [--samples 64]
        [--try '{}'] [--try '{"method": "fast"}'] [--try '{"follow.SHARE": 1.0, "tune": 2}']

A trial has a method (default), passes of tuning (those of the method), and constants of halfbyte.quantize's modules.
The texts, and what the calibration text has left over, go through both streams as held-out samples, in windows as long
as the calibration's. A JSON line a trial: by text, perplexity, KL(reference || quantized), the reference's perplexity.
Choose by this, and never on the text that a result is told of.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate.perplexity import cut_windows, read_text, tokenize
from halfbyte.models.rope import Rope
from halfbyte.quantize import calibration
from halfbyte.quantize.activations import ActivationStore
from halfbyte.quantize.block import float_block
from halfbyte.quantize.block_quantizer import BlockQuantizer, Samples
from halfbyte.quantize.driver import _products_in_tf32
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.finished import FinishedBlock, finish
from halfbyte.quantize.held_out import measure_held_out
from halfbyte.quantize.machine import pick_device
from halfbyte.quantize.read_ahead import read_ahead
from halfbyte.quantize.stream import Stream
from halfbyte.quantize.tune import Tuner


class Trials:
    """A model and the texts that trials are measured on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.checkpoint = Checkpoint(open_source(given.source))
        self.config, self.size, self.device = self.checkpoint.config, given.group_size, pick_device("auto")
        tokenizer = Tokenizer.from_source(self.checkpoint.source)
        calibration.HELD_OUT = given.windows
        texts = calibration.calibration_texts(given.calib, tokenizer)
        data = calibration.calibration_data(texts, tokenizer, given.samples, given.seq_len, 0)
        self.learnt_from = data.tokens
        self.held = {"left over of the calibration text": data.held_out} if len(data.held_out) else {}
        for path in given.text:
            self.held[path.name] = cut_windows(tokenize(tokenizer, read_text(path)), given.seq_len, given.windows)
        self.tokens = torch.cat([data.tokens, *self.held.values()])
        self.samples = Samples(len(data.tokens), len(self.tokens) - len(data.tokens), given.seq_len, self.device.type)
        self.embedding = self.checkpoint.tensor("model.embed_tokens.weight").float().to(self.device)
        self.norm = self.checkpoint.tensor("model.norm.weight").float().to(self.device)
        tied = self.config.tie_word_embeddings
        head = self.embedding if tied else self.checkpoint.tensor("lm_head.weight").float().to(self.device)
        self.head = head

    def run(self, trial: dict[str, Any], folder: Path) -> dict[str, Any]:
        recipe = RECIPES[trial.get("method", "default")]
        recipe = replace(recipe, tune=trial.get("tune", recipe.tune))
        store = ActivationStore(len(self.tokens), self.tokens.shape[1], 2**62, folder, self.device)
        plain, rounded = (Stream(self.config, Rope(self.config), store.new(self.config.hidden_size)) for _ in range(2))
        for part in self.samples.parts():
            for stream in (plain, rounded):
                stream.hidden.write(part.start, self.embedding[self.tokens[part].to(self.device)])
        quantizer = BlockQuantizer(plain, rounded, self.samples, store, recipe, self.size)
        finished = []
        for layer, source in read_ahead(self.checkpoint, 0, self.device):
            block = float_block(source)
            linears = quantizer.run(layer, source, block, frozenset())
            finished.append(finish(block, linears, self.config))
        if recipe.tune:
            self.tune(recipe.tune, finished, plain, rounded)
        return self.measured(plain, rounded)

    def tune(self, passes: int, finished: list[FinishedBlock], plain: Stream, rounded: Stream) -> None:
        """Learn, and take the held-out samples through what was learnt."""
        tuner = Tuner(self.config, Rope(self.config), finished.__getitem__, self.device, resident=True)
        tuner.learn(
            passes, self.learnt_from, self.embedding, plain.hidden, self.norm, self.head,
            after_pass=lambda number: None, after_step=lambda done, total: None,
        )  # fmt: skip
        parts = list(self.samples.parts(learnt_from=False))
        for part in parts:
            rounded.hidden.write(part.start, self.embedding[self.tokens[part].to(self.device)])
        for layer, block in enumerate(finished):
            own = FinishedBlock(block.linears, block.floats)
            changed = tuner.changes(layer)
            own.floats |= {name: tensor for name, tensor in changed.items() if not name.endswith(".scales")}
            for module, w in own.linears.items():
                own.linears[module] = replace(w, s=changed[f"{module}.scales"].T.contiguous())
            for part in parts:
                rounded.through(own.block(self.config, self.device), layer, part)

    def measured(self, plain: Stream, rounded: Stream) -> dict[str, Any]:
        found, at = {}, self.samples.calibration
        for name, windows in self.held.items():
            place, at = slice(at, at + len(windows)), at + len(windows)
            one = measure_held_out(
                (plain.hidden, rounded.hidden), self.tokens, place, (self.norm, self.norm), self.config.rms_norm_eps,
                self.head, of_calibration=False,
            )  # fmt: skip
            figures = {"perplexity": one.perplexity, "kl": one.kl_divergence, "reference": one.reference_perplexity}
            found[name] = {key: round(value, 4) for key, value in figures.items()}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--calib", default="builtin")
    parser.add_argument("--text", type=Path, action="append", default=[])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16, help="of each text")
    parser.add_argument("--try", dest="trials", type=json.loads, action="append", help="JSON, see above")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        trials = Trials(given)
        for trial in given.trials or [{}]:
            places = [(*key.rsplit(".", 1), value) for key, value in trial.items() if "." in key]
            modules = [
                (importlib.import_module(f"halfbyte.quantize.{name}"), key, value) for name, key, value in places
            ]
            before = [getattr(module, key) for module, key, _ in modules]
            for module, key, value in modules:
                setattr(module, key, value)
            start = time.perf_counter()
            with _products_in_tf32(trials.device):
                found = trials.run(trial, Path(folder))
            print(json.dumps({"trial": trial, "seconds": round(time.perf_counter() - start, 1), **found}), flush=True)
            for (module, key, _), value in zip(modules, before, strict=True):
                setattr(module, key, value)


if __name__ == "__main__":
    main()
