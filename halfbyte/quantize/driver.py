"""Quantizes a whole model: reads, calibrates, quantizes and writes it block by block."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.containers import CONFIG_FILES, new_container
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.checkpoint.writer import RepositoryWriter, json_bytes
from halfbyte.errors import QuantizeError
from halfbyte.kernels.interface import AfterAttention, LinearWeight
from halfbyte.models.loader import read_block
from halfbyte.models.network import Block
from halfbyte.models.rope import Rope
from halfbyte.quantize.block import quantize_block
from halfbyte.quantize.calibrate import Calibrator
from halfbyte.quantize.calibration import calibration_text, calibration_tokens
from halfbyte.quantize.card import model_card
from halfbyte.quantize.chat_template import choose_template, template_files
from halfbyte.quantize.group_size import choose_group_size
from halfbyte.quantize.options import QuantizeOptions
from halfbyte.quantize.plan import Plan, make_plan
from halfbyte.quantize.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from halfbyte.checkpoint.container import Container
    from halfbyte.checkpoint.source import Source

LARGEST_FLOAT16 = 65504.0
NOT_COPIED = CONFIG_FILES | {"README.md", ".gitattributes"}


class Progress(Protocol):
    """What a caller may show of a run."""

    def plan(self, plan: Plan) -> None:
        """Called once, before anything long starts."""

    def block(self, done: int, total: int) -> None:
        """Called after each block."""


class Silent:
    """Shows nothing."""

    def plan(self, plan: Plan) -> None:
        """Show nothing."""

    def block(self, done: int, total: int) -> None:
        """Show nothing."""


@torch.inference_mode()
def quantize(
    source: str | Path | Source,
    out: str | Path,
    options: QuantizeOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Quantize SOURCE to 4-bit AWQ and write the repository OUT. Returns the report that is also written there.

    Raises a HalfbyteError, and leaves no OUT, if anything is wrong with the source, the options or the disk.
    """
    options, progress = options or QuantizeOptions(), progress or Silent()
    started = time.perf_counter()
    source = source if hasattr(source, "read") else open_source(source)  # type: ignore[assignment,arg-type]
    checkpoint = Checkpoint(source)  # type: ignore[arg-type]
    config = checkpoint.config
    if checkpoint.container is not None:
        raise QuantizeError(f"{source.spec} is already quantized; quantize the model that it was made from")  # type: ignore[union-attr]
    notes: list[str] = []
    group_size = choose_group_size(config, options.group_size)
    if options.group_size == "auto":
        notes.append(f"group size {group_size}: the largest of 128, 64, 32 that divides the inputs of every layer")
    plan = make_plan(config, group_size, options.samples, options.seq_len, notes)
    writer = RepositoryWriter(out, max_shard_size=options.max_shard_size, overwrite=options.overwrite)
    writer.check(plan.disk)
    progress.plan(plan)
    tokenizer = choose_template(Tokenizer.from_source(checkpoint.source), options.chat_template)
    text = calibration_text(options.calib)
    tokens = calibration_tokens(text, tokenizer, options.samples, options.seq_len, options.seed)
    if int(tokens.max()) >= config.vocab_size:
        raise QuantizeError(
            f"the tokenizer gives token {int(tokens.max())}, the embedding has {config.vocab_size} rows"
        )
    report = Report(
        source=checkpoint.source.spec, out=str(out), bits=options.bits, group_size=group_size,
        calib=options.calib, samples=options.samples, seq_len=options.seq_len, seed=options.seed,
        source_bytes=sum(info.nbytes for info in checkpoint.source.tensors().values()), notes=notes,
    )  # fmt: skip
    container = new_container("awq", group_size)
    with writer:
        _write_weights(checkpoint, tokens, container, writer, report, progress)
        report.out_bytes = writer.total_size
        report.seconds = round(time.perf_counter() - started, 2)
        files = _small_files(checkpoint, tokenizer, container, report)
        if options.chat_template is not None:
            files = template_files(files, tokenizer)
        writer.finish(quantized_config(checkpoint.source.config, container), files)
    return report


def _write_weights(
    checkpoint: Checkpoint,
    tokens: torch.Tensor,
    container: Container,
    writer: RepositoryWriter,
    report: Report,
    progress: Progress,
) -> None:
    config = checkpoint.config
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    writer.add("model.embed_tokens.weight", float16(embedding, "model.embed_tokens.weight"))
    calibrator = Calibrator(config, Rope(config), embedding[tokens].float())
    del embedding
    for layer in range(config.num_layers):
        block = float_block(read_block(checkpoint, layer))
        stats = calibrator.through(block, layer)
        prefix = f"model.layers.{layer}"
        for linear in quantize_block(block, stats, config, container.group_size):
            for suffix, tensor in container.pack(linear.weight).items():
                writer.add(f"{prefix}.{linear.name}.{suffix}", tensor)
            if linear.bias is not None:
                name = f"{prefix}.{linear.name}.bias"
                writer.add(name, float16(linear.bias, name))
            linear.report.name = f"{prefix}.{linear.name}"
            report.layers.append(linear.report)
        for name, norm in norms(block).items():
            writer.add(f"{prefix}.{name}", float16(norm, f"{prefix}.{name}"))
        progress.block(layer + 1, config.num_layers)
    for name in ["model.norm.weight"] + ["lm_head.weight"] * (not config.tie_word_embeddings):
        writer.add(name, float16(checkpoint.tensor(name), name))


def float_block(block: Block) -> Block:
    """A float32 copy of a block's weights, to be scaled in place."""

    def copied(w: LinearWeight) -> LinearWeight:
        assert isinstance(w.weight, torch.Tensor)
        return LinearWeight(
            w.weight.to(torch.float32, copy=True), None if w.bias is None else w.bias.to(torch.float32, copy=True)
        )

    after = block.after
    return Block(
        input_norm=block.input_norm.float(),
        qkv=copied(block.qkv),
        q_norm=None if block.q_norm is None else block.q_norm.float(),
        k_norm=None if block.k_norm is None else block.k_norm.float(),
        after=AfterAttention(copied(after.o), after.norm.float(), copied(after.gate_up), copied(after.down)),
    )


def norms(block: Block) -> dict[str, torch.Tensor]:
    """A block's norm weights by their name within it."""
    found = {
        "input_layernorm.weight": block.input_norm,
        "post_attention_layernorm.weight": block.after.norm,
        "self_attn.q_norm.weight": block.q_norm,
        "self_attn.k_norm.weight": block.k_norm,
    }
    return {name: norm for name, norm in found.items() if norm is not None}


def float16(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """What is not quantized is published in float16, as AWQ's loaders expect. Raises QuantizeError on overflow."""
    largest = tensor.abs().max().item()
    if largest > LARGEST_FLOAT16:
        raise QuantizeError(f"{name} holds {largest:.4g}, more than float16 can ({LARGEST_FLOAT16:.0f})")
    return tensor.to(torch.float16)


def quantized_config(config: dict[str, Any], container: Container) -> dict[str, Any]:
    """The source's config.json with the container's block, saying that the rest is float16."""
    kept = {k: v for k, v in config.items() if k not in ("torch_dtype", "dtype")}
    return {**kept, "torch_dtype": "float16", "quantization_config": container.config_block()}


def _small_files(
    checkpoint: Checkpoint, tokenizer: Tokenizer, container: Container, report: Report
) -> dict[str, bytes]:
    source = checkpoint.source
    copied = {name: source.file(name) for name in source.files() if name not in NOT_COPIED}
    card = model_card(source, checkpoint.config, tokenizer, report)
    return {
        **{name: contents for name, contents in copied.items() if contents is not None},
        **{name: json_bytes(contents) for name, contents in container.json_files().items()},
        "quantize_report.json": json.dumps(report.as_dict(), indent=2).encode() + b"\n",
        "README.md": card.encode(),
    }
