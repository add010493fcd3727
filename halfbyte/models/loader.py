"""From a checkpoint to a network that runs: stacks what shares an input, and picks the kernels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import torch

from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.kernel_form import joint_form
from halfbyte.errors import ConfigError
from halfbyte.kernels.interface import AfterAttention, Kernels, LinearWeight
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.network import Block, Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint

log = logging.getLogger(__name__)

Compute = Literal["auto", "float32"]


def load_network(
    checkpoint: Checkpoint, compute: Compute = "auto", *, adaptable: bool = False, device: str = "auto"
) -> Network:
    """Build the network. compute="float32" makes 4-bit weights float and rounds no activation (exact, slower).

    adaptable: passes can be given adapters. device: "cpu", "cuda", or "auto" for a GPU if there is one; computing in
    float32 is done on the CPU. Raises ConfigError for another device, or one that is not there.
    """
    place = pick_device(device, compute)
    checkpoint = checkpoint.for_running(None if place.type == "cpu" else place)
    kernels = pick_kernels(checkpoint, compute, place, adaptable=adaptable)
    embedding = checkpoint.tensor("model.embed_tokens.weight")
    tied = checkpoint.config.tie_word_embeddings
    made_float: list[str] = []
    network = Network(
        checkpoint.config,
        embedding.to(place),
        read_blocks(checkpoint, takes_order=getattr(kernels, "takes_order", False), made_float=made_float),
        checkpoint.tensor("model.norm.weight"),
        embedding if tied else checkpoint.tensor("lm_head.weight"),
        kernels,
    )
    if made_float and compute != "float32":
        log.warning(
            "%s: %d quantized linears run as floats, the first is %s: kernels take equal groups, on a GPU 4 bits",
            checkpoint.source.spec, len(made_float), made_float[0],
        )  # fmt: skip
    return network


def pick_device(wanted: str, compute: Compute) -> torch.device:
    """See load_network."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f'device is {wanted!r}; it must be "auto", "cpu" or "cuda"')
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError('device is "cuda", and PyTorch finds no GPU here; use device="cpu" or install its CUDA build')
    if wanted == "cuda" and compute == "float32":
        raise ConfigError('compute="float32" is done on the CPU; leave device out, or compute')
    return torch.device("cuda" if there and wanted != "cpu" and compute != "float32" else "cpu")


def pick_kernels(checkpoint: Checkpoint, compute: Compute, device: torch.device, *, adaptable: bool = False) -> Kernels:
    """On a GPU its own. Else int4 kernels for a quantized checkpoint, the float32 reference for any other."""
    if device.type == "cuda":
        from halfbyte.kernels.gpu.gpu_kernels import GpuKernels  # noqa: PLC0415  triton comes with CUDA

        return GpuKernels(device)
    if compute == "float32" or not checkpoint.has_int4:
        return ReferenceKernels()
    from halfbyte.kernels.cpu.pick import cpu_kernels  # noqa: PLC0415  it may have to compile

    config = checkpoint.config
    return cpu_kernels(adaptable=adaptable, sharing_heads=config.num_heads // config.num_kv_heads)


def read_blocks(
    checkpoint: Checkpoint, *, takes_order: bool = False, made_float: list[str] | None = None
) -> Iterator[Block]:
    """The blocks, one after another, each read from disk when it is asked for; see `stacked`."""
    for layer in range(checkpoint.config.num_layers):
        yield read_block(checkpoint, layer, takes_order=takes_order, made_float=made_float)


def read_block(
    checkpoint: Checkpoint, layer: int, *, takes_order: bool = False, made_float: list[str] | None = None
) -> Block:
    """Read one block's weights; see `stacked`."""

    def read(*names: str) -> LinearWeight:
        return stacked(checkpoint, [f"{prefix}.{name}" for name in names], takes_order, made_float)

    prefix = f"model.layers.{layer}"
    attn = f"{prefix}.self_attn"
    has_norms = checkpoint.config.qk_norm
    return Block(
        input_norm=checkpoint.tensor(f"{prefix}.input_layernorm.weight"),
        qkv=read(*(f"self_attn.{n}_proj" for n in "qkv")),
        q_norm=checkpoint.tensor(f"{attn}.q_norm.weight") if has_norms else None,
        k_norm=checkpoint.tensor(f"{attn}.k_norm.weight") if has_norms else None,
        after=AfterAttention(
            o=read("self_attn.o_proj"),
            norm=checkpoint.tensor(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=read("mlp.gate_proj", "mlp.up_proj"),
            down=read("mlp.down_proj"),
        ),
    )


def stacked(
    checkpoint: Checkpoint, prefixes: list[str], takes_order: bool = False, made_float: list[str] | None = None
) -> LinearWeight:
    """Linears that share their input as one.

    All are made float, and the quantized ones of them named in `made_float`, unless all can be in kernels' form, with
    one order of inputs for all. An order other than the natural one, and more than 4 bits, need kernels that
    take an order.
    """
    weights = [checkpoint.stored(prefix) for prefix in prefixes]
    biases = [checkpoint.bias(prefix) for prefix in prefixes]
    together = _together(weights)
    if together is None or (together[1] is not None and not takes_order):
        if made_float is not None:
            made_float += [p for p, w in zip(prefixes, weights, strict=True) if isinstance(w, IntWeight)]
        return LinearWeight(torch.cat([_as_float(w) for w in weights]), _joined(biases, weights))
    return LinearWeight(together[0], _joined(biases, weights), together[1])


def _together(weights: list[IntWeight | torch.Tensor]) -> tuple[Int4Weight, torch.Tensor | None] | None:
    """Stacked in kernels' form, and their common order; None if that cannot be."""
    integers = [w for w in weights if isinstance(w, IntWeight)]
    return joint_form(integers) if len(integers) == len(weights) else None


def _as_float(weight: IntWeight | torch.Tensor) -> torch.Tensor:
    return weight.dequantize() if isinstance(weight, IntWeight) else weight.float()


def _joined(biases: list[torch.Tensor | None], weights: list[IntWeight | torch.Tensor]) -> torch.Tensor | None:
    """Biases one after another, zeros for those that are not there; None if none is."""
    if all(b is None for b in biases):
        return None
    rows = [(w.q if isinstance(w, IntWeight) else w).shape[0] for w in weights]
    device = next(b.device for b in biases if b is not None)
    parts = [torch.zeros(n, device=device) if b is None else b.float() for b, n in zip(biases, rows, strict=True)]
    return torch.cat(parts)
