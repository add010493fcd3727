"""Quantizes a whole model block by block; what is finished is kept, and a run that was stopped goes on from it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.containers import CONFIG_FILES, new_container
from halfbyte.checkpoint.gptq import NAME as GPTQ
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.shard_writer import Entry
from halfbyte.checkpoint.size import linear_weight_count
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.checkpoint.writer import RepositoryWriter, json_bytes
from halfbyte.errors import QuantizeError
from halfbyte.models.rope import Rope
from halfbyte.quantize.activations import ActivationStore
from halfbyte.quantize.block import float_block
from halfbyte.quantize.block_quantizer import BlockQuantizer, Samples
from halfbyte.quantize.calibration import CalibrationData, calibration_data, calibration_texts
from halfbyte.quantize.card import model_card
from halfbyte.quantize.chat_template import choose_template, template_files
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.finished import finish, read_finished, read_packed, stored_entries
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

    from halfbyte.checkpoint.container import Container
    from halfbyte.checkpoint.source import Source

NOT_COPIED = CONFIG_FILES | {"README.md", ".gitattributes"}
WORK_FORMAT = 2  # of what the work folder keeps; another one is not gone on with
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
    plan = make_plan(checkpoint, selection.group_size, samples, options, device, notes + selection.notes + _told(data))
    replace = options.overwrite or WorkFolder(out).finishing
    writer = RepositoryWriter(out, max_shard_size=options.max_shard_size, overwrite=replace)
    writer.check(plan.disk)
    report = Report(
        source=opened.spec, out=str(out), bits=options.bits, group_size=selection.group_size, effort=options.effort,
        calib=options.calib, samples=options.samples, seq_len=options.seq_len, seed=options.seed,
        texts=data.texts, text_tokens=data.text_tokens, kept_float=selection.reasons, notes=list(plan.notes),
        source_bytes=sum(info.nbytes for info in opened.tensors().values()),
    )  # fmt: skip
    with _products_in_tf32(device), WorkFolder(out) as work:
        run = _Run(checkpoint, selection, data, options, plan, work, device, report, progress)
        report.resumed_blocks = work.open(run.fingerprint(), start_anew=options.overwrite)
        progress.plan(plan)
        run.blocks()
        changes = run.tune() if RECIPES[options.effort].tune else None
        assert run.held_out is not None
        report.held_out = run.held_out.as_dict()
        run.held_out.check(options.gate)
        with writer:
            run.assemble(writer, container, changes)
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
    ) -> None:
        self.checkpoint, self.selection, self.data, self.options = checkpoint, selection, data, options
        self.work, self.device, self.report, self.progress, self.plan = work, device, report, progress, plan
        self.config, self.recipe = checkpoint.config, RECIPES[options.effort]
        self.layers = self.config.num_layers
        measured = data.held_out if len(data.held_out) else data.tokens[:OF_CALIBRATION]
        self.tokens = torch.cat([data.tokens, measured])
        self.samples = Samples(len(data.tokens), len(measured), options.seq_len)
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
            "device": self.device.type,
        }

    def _levels(self) -> dict[str, Any]:
        levels = self.options.levels
        if levels == ASYMMETRIC_4 and not self.options.act_order:
            return {}
        return {"levels": [levels.bits, levels.sym, levels.least_zero], "activation order": self.options.act_order}

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
        saved: Future[None] | None = None
        with ThreadPoolExecutor(1) as pool:
            for layer, source in read_ahead(self.checkpoint, begin, self.device):
                if layer < done:
                    quantizer.replay(
                        layer, source, read_finished(self.work.blocks()[layer]).block(self.config, self.device)
                    )
                    continue
                block = float_block(source)
                linears = quantizer.run(layer, source, block, self.selection.kept[layer])
                tensors = finish(block, linears, self.config).tensors()
                reports = [asdict(linear.report) for linear in linears]
                if saved is not None:
                    saved.result()
                saved = pool.submit(self.work.save_block, layer, tensors, reports)
                del linears, tensors, block, source
                if self.work.state_due():
                    saved.result()
                    self.work.save_state(layer + 1, hidden, len(self.tokens))
                self.progress.block(layer + 1, self.layers)
            if saved is not None:
                saved.result()
        for layer in range(self.layers):
            self.report.layers += [LayerReport(**found) for found in self.work.reports(layer)]
        self.held_out = self._measure()

    def tune(self) -> dict[int, dict[str, torch.Tensor]] | None:
        """Learn scales and norms; returns what is to be changed, block by block, or None if it did not help."""
        before = self.held_out
        assert before is not None
        room = linear_weight_count(self.config) <= self.store.left
        files = [self.work.blocks()[layer] for layer in range(self.layers)]
        tuner = Tuner(self.config, self.rope, files, self.device, resident=room)
        tuned = self.work.tuned()
        passes = max(tuned, default=0)
        if passes:
            tuner.restore(read_packed(tuned[passes]))
        embedding, norm, head = self._ends()
        tuner.learn(
            self.recipe.tune, self.data.tokens, embedding, self.plain.hidden, norm, head, done=passes,
            after_pass=lambda number: self.work.save_tuned(number, tuner.state()), after_step=self.progress.tuning,
        )  # fmt: skip
        changes = {layer: tuner.changes(layer) for layer in range(self.layers)}
        held = list(self.samples.parts(learnt_from=False))
        for part in held:
            self.rounded.hidden.write(part.start, embedding[self.tokens[part].to(embedding.device)].float())
        for layer, file in enumerate(files):
            block = read_finished(file, changes[layer]).block(self.config, self.device)
            for part in held:
                self.rounded.through(block, layer, part)
        after = self._measure()
        self.report.tuned = {"kl_divergence_before": before.kl_divergence, "kl_divergence_after": after.kl_divergence}
        if not after.kl_divergence < before.kl_divergence:
            self.report.notes.append("tuning did not help on held-out text and was left out")
            return None
        self.held_out = after
        return changes

    def assemble(
        self, writer: RepositoryWriter, container: Container, changes: dict[int, dict[str, torch.Tensor]] | None
    ) -> None:
        """Write all tensors of the repository."""
        self._add_float(writer, "model.embed_tokens.weight")
        for layer, path in sorted(self.work.blocks().items()):
            changed = (changes or {}).get(layer, {})
            if container.name != "awq":  # else the work folder has it as it is to be
                path = self.work.save_repacked(layer, read_finished(path, changed).tensors(container))  # noqa: PLW2901
                changed = {}
            for name, entry in stored_entries(path).items():
                full = f"model.layers.{layer}.{name}"
                if name in changed:
                    writer.add(full, changed[name])
                else:
                    writer.add_later(full, entry)
        for name in ["model.norm.weight"] + ["lm_head.weight"] * (not self.config.tie_word_embeddings):
            self._add_float(writer, name)

    def _add_float(self, writer: RepositoryWriter, name: str) -> None:
        shape = self.checkpoint.source.tensors()[name].shape
        writer.add_later(name, Entry(torch.float16, shape, lambda: float16(self.checkpoint.tensor(name), name)))

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
