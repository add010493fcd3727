"""Quantizes a whole model block by block; what is finished is kept, and a run that was stopped goes on from it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors.torch import load_file

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.containers import CONFIG_FILES, new_container
from halfbyte.checkpoint.gptq import NAME as GPTQ
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.prepared_shards import PreparedShards
from halfbyte.checkpoint.shard_writer import Kind
from halfbyte.checkpoint.size import linear_weight_count
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.checkpoint.writer import RepositoryWriter, can_link, json_bytes
from halfbyte.errors import QuantizeError
from halfbyte.models.rope import Rope
from halfbyte.quantize.activations import ActivationStore
from halfbyte.quantize.block import float_block
from halfbyte.quantize.block_quantizer import BlockQuantizer, Samples
from halfbyte.quantize.calibration import CalibrationData, calibration_data, calibration_texts
from halfbyte.quantize.card import model_card
from halfbyte.quantize.chat_template import choose_template, template_files
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.finished import FinishedBlock, block_kinds, finish, read_finished, rescaled
from halfbyte.quantize.held_out import HeldOut, measure_held_out
from halfbyte.quantize.machine import pick_device
from halfbyte.quantize.options import QuantizeOptions
from halfbyte.quantize.padding import PaddedSource
from halfbyte.quantize.plan import Plan, make_plan
from halfbyte.quantize.published import as_published, float16
from halfbyte.quantize.read_ahead import read_ahead
from halfbyte.quantize.report import LayerReport, Report
from halfbyte.quantize.rounding import ASYMMETRIC_4
from halfbyte.quantize.selection import Selection, padded_width, select
from halfbyte.quantize.stream import Stream
from halfbyte.quantize.tune import Tuner
from halfbyte.quantize.work import WorkFolder, source_fingerprint, tensor_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.container import Container
    from halfbyte.checkpoint.source import Source

NOT_COPIED = CONFIG_FILES | {"README.md", ".gitattributes"}
WORK_FORMAT = 4  # of what the work folder keeps; another one is not gone on with
OF_CALIBRATION = 4  # samples that stand in for held-out ones where the text has no more


class Progress(Protocol):
    """What a caller may show of a run."""

    def plan(self, plan: Plan) -> None:
        """Called once, before anything long starts."""

    def block(self, done: int, total: int) -> None:
        """Called after each block, and once before if an earlier run had finished some."""

    def tuning(self, done: int, total: int) -> None:
        """Called after each step of tuning."""


class Silent:
    """Shows nothing."""

    def plan(self, plan: Plan) -> None:
        """Show nothing."""

    def block(self, done: int, total: int) -> None:
        """Show nothing."""

    def tuning(self, done: int, total: int) -> None:
        """Show nothing."""


@torch.no_grad()
def quantize(
    source: str | Path | Source,
    out: str | Path,
    options: QuantizeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Quantize SOURCE and write the repository OUT. Returns the report that is also written there.

    Raises a HalfbyteError, and leaves no OUT, if anything is wrong with the source, the options or the disk. A run that
    was stopped goes on from its last finished block when it is called again with the same source, options and OUT.
    """
    options, progress = options or QuantizeOptions(), progress or Silent()
    started = time.perf_counter()
    device = pick_device(options.device)
    opened: Source = source if hasattr(source, "read") else open_source(source)  # type: ignore[assignment,arg-type]
    checkpoint = Checkpoint(opened)
    if checkpoint.container is not None:
        raise QuantizeError(f"{opened.spec} is already quantized; quantize the model that it was made from")
    checkpoint, notes = _padded(checkpoint, options)
    selection = select(checkpoint.config, options)
    container = new_container(
        options.format, selection.group_size, tuple(selection.reasons),
        bits=options.bits, sym=options.sym, act_order=options.act_order,
    )  # fmt: skip
    tokenizer = choose_template(Tokenizer.from_source(checkpoint.source), options.chat_template)
    data = calibration_data(
        calibration_texts(options.calib, tokenizer), tokenizer, options.samples, options.seq_len, options.seed
    )
    _check_tokens(data, checkpoint)
    samples = len(data.tokens) + (len(data.held_out) or OF_CALIBRATION)
    kinds = tensor_kinds(checkpoint, selection, container, options.bits)
    out_bytes = sum(kind.nbytes for kind in kinds.values()) * (1 if can_link(out) else 2)
    notes += selection.notes + _told(data)
    plan = make_plan(checkpoint, selection.group_size, samples, options, device, notes, out_bytes)
    before = WorkFolder(out)
    replace = options.overwrite or before.finishing
    writer = RepositoryWriter(out, max_shard_size=options.max_shard_size, overwrite=replace)
    writer.check(max(0, plan.disk - before.held()))
    report = Report(
        source=opened.spec, out=str(out), bits=options.bits, group_size=selection.group_size, effort=options.effort,
        calib=options.calib, samples=options.samples, seq_len=options.seq_len, seed=options.seed,
        texts=data.texts, text_tokens=data.text_tokens, kept_float=selection.reasons, notes=list(plan.notes),
        source_bytes=sum(info.nbytes for info in opened.tensors().values()),
    )  # fmt: skip
    with _products_in_tf32(device), WorkFolder(out) as work:
        run = _Run(checkpoint, selection, data, options, plan, work, device, report, progress, container)
        shards = PreparedShards(work.path, kinds, options.max_shard_size)
        report.resumed_blocks = work.open(run.fingerprint(), shards, run.layers, start_anew=options.overwrite)
        progress.plan(plan)
        held_out = run.to_the_end()
        report.held_out = held_out.as_dict()
        held_out.check(options.gate)
        with writer:
            for path, held in zip(shards.paths, shards.shards, strict=True):
                writer.take(path, held)
            report.out_bytes = writer.total_size
            report.seconds = round(time.perf_counter() - started, 2)
            files = _small_files(checkpoint, tokenizer, container, report)
            if options.chat_template is not None:
                files = template_files(files, tokenizer)
            work.finish()
            writer.finish(quantized_config(checkpoint.source.config, container), files)
    return report


class _Run:
    """The samples' two streams, and what has become of the blocks."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        selection: Selection,
        data: CalibrationData,
        options: QuantizeOptions,
        plan: Plan,
        work: WorkFolder,
        device: torch.device,
        report: Report,
        progress: Progress,
        container: Container,
    ) -> None:
        self.container = container
        self.checkpoint, self.selection, self.data, self.options = checkpoint, selection, data, options
        self.work, self.device, self.report, self.progress, self.plan = work, device, report, progress, plan
        self.config, self.recipe = checkpoint.config, RECIPES[options.effort]
        self.layers = self.config.num_layers
        measured = data.held_out if len(data.held_out) else data.tokens[:OF_CALIBRATION]
        self.tokens = torch.cat([data.tokens, measured])
        self.samples = Samples(len(data.tokens), len(measured), options.seq_len, device.type)
        self.rope = Rope(self.config)
        self.held_out: HeldOut | None = None

    def fingerprint(self) -> dict[str, Any]:
        """All that the result depends on."""
        return {
            "work format": WORK_FORMAT,
            "source": self.checkpoint.source.spec,
            "source's contents": source_fingerprint(self.checkpoint.source),
            "--effort": self.options.effort,
            "group size": self.selection.group_size,
            **self._levels(),
            "--samples": self.options.samples,
            "--seq-len": self.options.seq_len,
            "--calib and --seed (the tokens they pick)": tensor_fingerprint(self.tokens),
            "linears kept in 16 bits": sorted(self.selection.reasons),
            "--indivisible (the MLP's width)": self.config.intermediate_size,
            "--format": self.options.format,
            "--max-shard-size": self.options.max_shard_size,
            "device": self.device.type,
        }

    def _levels(self) -> dict[str, Any]:
        levels = self.options.levels
        if levels == ASYMMETRIC_4 and not self.options.act_order:
            return {}
        return {"levels": [levels.bits, levels.sym, levels.least_zero], "activation order": self.options.act_order}

    def to_the_end(self) -> HeldOut:
        """Do what is not done yet, so that the shards hold what they are to hold; returns how good that is."""
        told = self.work.apply_learnt()
        if told is not None:
            self.progress.block(self.layers, self.layers)
        else:
            self.blocks()
            if self.recipe.tune:
                self.tune()
                told = self.work.apply_learnt()
        self._read_reports()
        if told is None:
            assert self.held_out is not None
            return self.held_out
        self.report.tuned = told["tuned"]
        self.report.notes += told["notes"]
        return HeldOut(**told["held_out"])

    def _read_reports(self) -> None:
        for layer in range(self.layers):
            self.report.layers += [LayerReport(**found) for found in self.work.reports(layer)]

    def blocks(self) -> None:
        """Quantize every block that is not finished yet."""
        self.store = store = ActivationStore(
            len(self.tokens), self.options.seq_len, self.plan.activation_budget, self.work.path, self.device
        )
        streams = [Stream(self.config, self.rope, store.new(self.config.hidden_size)) for _ in range(2)]
        self.plain, self.rounded = streams
        hidden = [stream.hidden for stream in streams]
        done = self.report.resumed_blocks
        shape = (self.options.seq_len, self.config.hidden_size)
        begin = self.work.load_state(hidden, len(self.tokens), shape) if done else 0
        if begin == 0:
            self._embed()
        if done:
            self.progress.block(done, self.layers)
        quantizer = BlockQuantizer(
            self.plain, self.rounded, self.samples, store, self.recipe, self.selection.group_size,
            self.options.levels, act_order=self.options.act_order,
        )  # fmt: skip
        checksums = self._write_ends()
        with ThreadPoolExecutor(1) as pool:
            saved: Future[None] | None = pool.submit(self.work.record_ends, checksums) if checksums else None
            for layer, source in read_ahead(self.checkpoint, begin, self.device):
                if layer < done:
                    quantizer.replay(layer, source, self._finished(layer).block(self.config, self.device))
                    continue
                block = float_block(source)
                linears = quantizer.run(layer, source, block, self.selection.kept[layer])
                tensors = finish(block, linears, self.config).tensors(self.container)
                there = torch.cuda.current_stream().record_event() if self.device.type == "cuda" else None
                reports = [asdict(linear.report) for linear in linears]
                if saved is not None:
                    saved.result()
                saved = pool.submit(self._save, layer, tensors, reports, there)
                del linears, tensors, block, source
                if self.work.state_due():
                    saved.result()
                    self.work.save_state(layer + 1, hidden, len(self.tokens))
                self.progress.block(layer + 1, self.layers)
            if saved is not None:
                saved.result()
        store.release()
        self.held_out = self._measure()

    def _save(
        self,
        layer: int,
        tensors: dict[str, torch.Tensor],
        reports: list[dict[str, Any]],
        there: torch.cuda.Event | None,
    ) -> None:
        """Keep a block, in a thread of its own: a GPU goes on with the next one meanwhile."""
        if there is not None:
            with torch.cuda.stream(self.side):
                self.side.wait_event(there)
                tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        self.work.save_block(layer, tensors, reports)

    @cached_property
    def side(self) -> torch.cuda.Stream:
        """A GPU's stream for what goes to the disk."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def _finished(self, layer: int, changes: dict[str, torch.Tensor] | None = None) -> FinishedBlock:
        tensors = self.work.read_block(layer) | rescaled(changes or {}, self.container)
        return read_finished(tensors, self.container, self.config)

    def tune(self) -> None:
        """Learn scales and norms; what is to be changed is kept in the work folder."""
        before = self.held_out
        assert before is not None
        room = linear_weight_count(self.config) <= self.store.left
        tuner = Tuner(self.config, self.rope, self._finished, self.device, resident=room)
        tuned = self.work.tuned()
        passes = max(tuned, default=0)
        if passes:
            tuner.restore(load_file(tuned[passes]))
        embedding, norm, head = self._ends()
        tuner.learn(
            self.recipe.tune, self.data.tokens, embedding, self.plain.hidden, norm, head, done=passes,
            after_pass=lambda number: self.work.save_tuned(number, tuner.state()), after_step=self.progress.tuning,
        )  # fmt: skip
        changes = {layer: tuner.changes(layer) for layer in range(self.layers)}
        held = list(self.samples.parts(learnt_from=False))
        for part in held:
            self.rounded.hidden.write(part.start, embedding[self.tokens[part].to(embedding.device)].float())
        for layer in range(self.layers):
            block = self._finished(layer, changes[layer]).block(self.config, self.device)
            for part in held:
                self.rounded.through(block, layer, part)
            self.rounded.check(layer)
        after = self._measure()
        helped = after.kl_divergence < before.kl_divergence
        found = {
            f"model.layers.{layer}.{name}": tensor
            for layer, own in changes.items()
            for name, tensor in rescaled(own, self.container).items()
        }
        told = {
            "tuned": {"kl_divergence_before": before.kl_divergence, "kl_divergence_after": after.kl_divergence},
            "notes": [] if helped else ["tuning did not help on held-out text and was left out"],
            "held_out": asdict(after if helped else before),
        }
        self.work.save_learnt(found if helped else {}, told)

    def _write_ends(self) -> dict[str, int]:
        """Put what lies before and behind the blocks into the shards; returns checksums, none if it was done before."""
        shards = self.work.shards
        assert shards is not None
        checksums: dict[str, int] = {}
        for name in [] if self.work.has_ends else end_names(self.config):
            checksums |= shards.write({name: float16(self.checkpoint.tensor(name), name)})
        self.checkpoint.source.release()
        return checksums

    def _embed(self) -> None:
        embedding = self.checkpoint.tensor("model.embed_tokens.weight")
        for part in self.samples.parts():
            values = embedding[self.tokens[part]].float().to(self.device)
            for stream in (self.plain, self.rounded):
                stream.hidden.write(part.start, values)
        self.checkpoint.source.release()

    def _ends(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embedding [V, D] as stored, final norm and head in float32 on the device."""
        embedding = self.checkpoint.tensor("model.embed_tokens.weight")
        head = embedding if self.config.tie_word_embeddings else self.checkpoint.tensor("lm_head.weight")
        norm = as_published(self.checkpoint.tensor("model.norm.weight"), "model.norm.weight")
        return embedding, norm.to(self.device), head.to(self.device).float()

    def _measure(self) -> HeldOut:
        _, norm, head = self._ends()
        return measure_held_out(
            (self.plain.hidden, self.rounded.hidden),
            self.tokens,
            slice(self.samples.calibration, len(self.tokens)),
            (norm, norm),
            self.config.rms_norm_eps,
            head,
            of_calibration=not len(self.data.held_out),
        )


def end_names(config: ModelConfig) -> list[str]:
    """What a network has before and behind its blocks."""
    return ["model.embed_tokens.weight", "model.norm.weight"] + ["lm_head.weight"] * (not config.tie_word_embeddings)


def tensor_kinds(checkpoint: Checkpoint, selection: Selection, container: Container, bits: int) -> dict[str, Kind]:
    """All that the repository will have, by name."""
    first, *last = end_names(checkpoint.config)
    given = checkpoint.source.tensors()
    kinds = {first: Kind(torch.float16, given[first].shape)}
    for layer, kept in enumerate(selection.kept):
        own = block_kinds(checkpoint, layer, kept, container, bits)
        kinds |= {f"model.layers.{layer}.{name}": own[name] for name in sorted(own)}
    return kinds | {name: Kind(torch.float16, given[name].shape) for name in last}


def quantized_config(config: dict[str, Any], container: Container) -> dict[str, Any]:
    """The source's config.json with the container's block, saying that the rest is float16."""
    kept = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")}
    return {**kept, "torch_dtype": "float16", "quantization_config": container.config_block()}


def _padded(checkpoint: Checkpoint, options: QuantizeOptions) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with a wider MLP, if that was asked for and is needed."""
    if options.indivisible != "pad":
        return checkpoint, []
    width, given = padded_width(checkpoint.config, options.group_size), checkpoint.config.intermediate_size
    if width == given:
        return checkpoint, []
    note = f"the MLP is padded with zeros from {given} to {width} channels, and config.json says so"
    return Checkpoint(PaddedSource(checkpoint.source, width)), [note]


def _check_tokens(data: CalibrationData, checkpoint: Checkpoint) -> None:
    largest = int(data.tokens.max())
    if largest >= checkpoint.config.vocab_size:
        raise QuantizeError(
            f"{checkpoint.source.spec}: the tokenizer gives token {largest}, but the embedding has "
            f"{checkpoint.config.vocab_size} rows; the tokenizer is not this model's"
        )


def _told(data: CalibrationData) -> list[str]:
    count = "1 text" if data.texts == 1 else f"{data.texts} texts"
    samples, length = data.tokens.shape
    return [
        f"calibration: {count} of {data.text_tokens} tokens, packed; {samples} samples of {length} are learnt from, "
        f"{len(data.held_out) or 'none'} held out"
    ]


@contextlib.contextmanager
def _products_in_tf32(device: torch.device) -> Iterator[None]:
    """Float32 products on a GPU's tensor cores, eight times as fast: 10 bits of mantissa are enough for statistics."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = device.type == "cuda" or before
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _small_files(
    checkpoint: Checkpoint, tokenizer: Tokenizer, container: Container, report: Report
) -> dict[str, bytes]:
    source = checkpoint.source
    copied = {name: source.file(name) for name in source.files() if name not in NOT_COPIED}
    own = source.file("README.md")  # GPTQ's card is the one that came with the model: ours speaks of AWQ
    if container.name != GPTQ:
        own = model_card(source, checkpoint.config, tokenizer, report).encode()
    card = {} if own is None else {"README.md": own}
    return {
        **{name: contents for name, contents in copied.items() if contents is not None},
        **{name: json_bytes(contents) for name, contents in container.json_files().items()},
        "quantize_report.json": report.to_json().encode(),
        **card,
    }
