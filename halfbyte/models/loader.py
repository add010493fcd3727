"""From a checkpoint to a network that runs: stacks what shares an input, and picks the kernels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.kernel_form import joint_form
from halfbyte.errors import ConfigError
from halfbyte.kernels.interface import AfterAttention, Kernels, LinearWeight
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.freed import give_back_freed
from halfbyte.models.network import Block, Network
from halfbyte.models.share import divide
from halfbyte.models.split_head import SplitHead, head_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.checkpoint.checkpoint import Checkpoint
    from halfbyte.kernels.interface import Reduce
    from halfbyte.models.collective import Collective
    from halfbyte.models.share import Share

log = logging.getLogger(__name__)
EMBEDDING = "model.embed_tokens.weight"
DTYPES = {"bfloat16": torch.bfloat16}  # of a GPU's activations, where it is not float16

Compute = Literal["auto", "float32", "bfloat16"]


def load_network(
    checkpoint: Checkpoint,
    compute: Compute = "auto",
    *,
    adaptable: bool = False,
    device: str = "auto",
    deterministic: bool = False,
    collective: Collective | None = None,
) -> Network:
    """Build the network. compute="float32" makes 4-bit weights float and rounds no activation (exact, slower).

    "bfloat16" has a GPU's activations in that. adaptable: passes can be given adapters. device: "cpu", "cuda", or
    "auto" for a GPU if there is one; computing in float32 is done on the CPU. Raises ConfigError for another device, or
    one that is not there. deterministic: a token's results depend on its sequence alone, on a GPU too.
    collective: of the processes that share the network; this one reads and keeps its share, and the others theirs.
    """
    place = pick_device(device, compute)
    checkpoint = checkpoint.for_running(None if place.type == "cpu" else place)
    if deterministic and place.type != "cpu":
        _check_deterministic(adaptable, 1 if collective is None else collective.ranks)
    kernels = pick_kernels(checkpoint, compute, place, adaptable=adaptable, deterministic=deterministic)
    share = None if collective is None else shares_of(checkpoint, collective.ranks)[collective.rank]
    embedding = checkpoint.tensor(EMBEDDING)
    head = embedding if checkpoint.config.tie_word_embeddings else checkpoint.tensor("lm_head.weight")
    packs = place.type == "cpu" and compute != "float32" and checkpoint.has_int4  # weights, into memory of their own
    if packs:
        embedding = checkpoint.mapped_apart(EMBEDDING, embedding)
    made_float: list[str] = []
    reader = BlockReader(
        checkpoint,
        getattr(kernels, "takes_order", False),
        made_float,
        share,
        None if collective is None else collective.add,
    )
    network = Network(
        checkpoint.config if share is None else share.config,
        embedding.to(place),
        (reader.block(layer) for layer in range(checkpoint.config.num_layers)),
        checkpoint.tensor("model.norm.weight"),
        head if share is None else head_rows(head, share),
        kernels,
    )
    if share is not None and collective is not None:
        network.share = share
        network.head = SplitHead(network.head, collective, checkpoint.config.vocab_size)
    if packs:
        checkpoint.source.release()
        give_back_freed()
    if made_float and compute != "float32":
        log.warning(
            "%s: %d quantized linears run as floats, the first is %s: kernels take equal groups, on a GPU 4 bits",
            checkpoint.source.spec, len(made_float), made_float[0],
        )  # fmt: skip
    return network


def exact_network(checkpoint: Checkpoint) -> Network:
    """`load_network` with compute="float32", for whole sequences only: then on a GPU too, if there is one."""
    if not torch.cuda.is_available():
        return load_network(checkpoint, "float32")
    return exact_network_on(checkpoint, torch.device("cuda"))


def exact_network_on(checkpoint: Checkpoint, place: torch.device) -> Network:
    """The same on a device."""
    checkpoint = checkpoint.for_running()
    tied = checkpoint.config.tie_word_embeddings
    network = Network(
        checkpoint.config,
        checkpoint.tensor(EMBEDDING).to(place),
        read_blocks(checkpoint, takes_order=True),
        checkpoint.tensor("model.norm.weight"),
        checkpoint.tensor(EMBEDDING if tied else "lm_head.weight"),
        ReferenceKernels(device=place),
    )
    network.qk_norms = [norms and (norms[0].to(place), norms[1].to(place)) for norms in network.qk_norms]
    return network


def pick_device(wanted: str, compute: Compute) -> torch.device:
    """See load_network."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f'device is {wanted!r}; it must be "auto", "cpu" or "cuda"')
    if compute not in get_args(Compute):
        raise ConfigError(f"compute is {compute!r}; it must be one of {', '.join(map(repr, get_args(Compute)))}")
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError('device is "cuda", and PyTorch finds no GPU here; use device="cpu" or install its CUDA build')
    if wanted == "cuda" and compute == "float32":
        raise ConfigError('compute="float32" is done on the CPU; leave device out, or compute')
    place = torch.device("cuda" if there and wanted != "cpu" and compute != "float32" else "cpu")
    if compute == "bfloat16" and place.type == "cpu":
        raise ConfigError('compute="bfloat16" is done on a GPU; on the CPU leave it out, or take "float32"')
    return place


def _check_deterministic(adaptable: bool, ranks: int) -> None:
    if adaptable:
        raise ConfigError(
            "deterministic and adapters (enable_lora) do not go together on a GPU: what adapters add is summed in an "
            "order that depends on how many tokens there are; leave one of them out"
        )
    if ranks > 2:
        raise ConfigError(
            f"deterministic on {ranks} GPUs (tensor_parallel_size) cannot be kept: NCCL's sums over more than two come "
            "in an order that depends on the size of the pass; take 1 or 2"
        )


def pick_kernels(
    checkpoint: Checkpoint,
    compute: Compute,
    device: torch.device,
    *,
    adaptable: bool = False,
    deterministic: bool = False,
) -> Kernels:
    """On a GPU its own. Else int4 kernels for a quantized checkpoint, the float32 reference for any other."""
    if device.type == "cuda":
        from halfbyte.kernels.gpu.gpu_kernels import GpuKernels  # noqa: PLC0415  triton comes with CUDA

        dtype = DTYPES.get(compute, torch.float16)
        return GpuKernels(device, fixed=deterministic, dtype=dtype)
    if compute == "float32" or not checkpoint.has_int4:
        return ReferenceKernels()
    from halfbyte.kernels.cpu.pick import cpu_kernels  # noqa: PLC0415  it may have to compile

    config = checkpoint.config
    return cpu_kernels(adaptable=adaptable, sharing_heads=config.num_heads // config.num_kv_heads)


def read_blocks(
    checkpoint: Checkpoint, *, takes_order: bool = False, made_float: list[str] | None = None
) -> Iterator[Block]:
    """The blocks, one after another, each read from disk when it is asked for; see `BlockReader`."""
    for layer in range(checkpoint.config.num_layers):
        yield read_block(checkpoint, layer, takes_order=takes_order, made_float=made_float)


def read_block(
    checkpoint: Checkpoint, layer: int, *, takes_order: bool = False, made_float: list[str] | None = None
) -> Block:
    """Read one block's weights; see `BlockReader`."""
    return BlockReader(checkpoint, takes_order, made_float).block(layer)


def stacked(
    checkpoint: Checkpoint, prefixes: list[str], takes_order: bool = False, made_float: list[str] | None = None
) -> LinearWeight:
    """Linears that share their input as one; see `BlockReader`."""
    return BlockReader(checkpoint, takes_order, made_float).stacked(prefixes)


def shares_of(checkpoint: Checkpoint, ranks: int) -> list[Share]:
    """A checkpoint's network dealt out to so many processes, along the groups that its weights are in."""
    size = 1 if checkpoint.container is None else checkpoint.container.group_size
    return divide(checkpoint.config, ranks, max(size, 1))


@dataclass(slots=True)
class BlockReader:
    """Reads blocks, or a share of each.

    Linears that share their input become one. All are made float, and the quantized ones of them named in
    `made_float`, unless all can be in kernels' form, with one order of inputs for all. An order other than the
    natural one, and more than 4 bits, need kernels that take an order.
    """

    checkpoint: Checkpoint
    takes_order: bool = False
    made_float: list[str] | None = None
    share: Share | None = None
    reduce: Reduce | None = None  # what sums over the shares
    as_stored: bool = False  # what is made float keeps the type that it is stored in

    def block(self, layer: int) -> Block:
        """One block's weights."""
        tensor, prefix = self.checkpoint.tensor, f"model.layers.{layer}"
        attn, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        has_norms = self.checkpoint.config.qk_norm
        return Block(
            input_norm=tensor(f"{prefix}.input_layernorm.weight"),
            qkv=self.stacked([f"{attn}.{n}_proj" for n in "qkv"]),
            q_norm=tensor(f"{attn}.q_norm.weight") if has_norms else None,
            k_norm=tensor(f"{attn}.k_norm.weight") if has_norms else None,
            after=AfterAttention(
                o=self.stacked([f"{attn}.o_proj"]),
                norm=tensor(f"{prefix}.post_attention_layernorm.weight"),
                gate_up=self.stacked([f"{mlp}.gate_proj", f"{mlp}.up_proj"]),
                down=self.stacked([f"{mlp}.down_proj"]),
                reduce=self.reduce,
            ),
        )

    def stacked(self, prefixes: list[str]) -> LinearWeight:
        """Linears that share their input."""
        weights = [self._weight(prefix) for prefix in prefixes]
        biases = [self._bias(prefix) for prefix in prefixes]
        together = _together(weights)
        if together is None or (together[1] is not None and not self.takes_order):
            if self.made_float is not None:
                self.made_float += [p for p, w in zip(prefixes, weights, strict=True) if isinstance(w, IntWeight)]
            floats = [w if self.as_stored and isinstance(w, torch.Tensor) else _as_float(w) for w in weights]
            return LinearWeight(torch.cat(floats), _joined(biases, weights))
        return LinearWeight(together[0], _joined(biases, weights), together[1])

    def _weight(self, prefix: str) -> IntWeight | torch.Tensor:
        if self.share is None:
            return self.checkpoint.stored(prefix)
        n, k = self.checkpoint.linears[prefix]
        outputs, inputs = self._here(prefix)
        return self.checkpoint.part(prefix, outputs or range(n), inputs or range(k))

    def _bias(self, prefix: str) -> torch.Tensor | None:
        """Where inputs are dealt out the first process adds it, for all."""
        bias = self.checkpoint.bias(prefix)
        if self.share is None or bias is None:
            return bias
        outputs, _ = self._here(prefix)
        if outputs is None:
            return bias if self.share.rank == 0 else None
        return bias[outputs.start : outputs.stop]

    def _here(self, prefix: str) -> tuple[range | None, range | None]:
        """The outputs and the inputs of a linear that this share has; None: all."""
        assert self.share is not None
        projection = prefix.rpartition(".")[2].removesuffix("_proj")
        width = self.checkpoint.config.head_dim
        return self.share.outputs(projection, width), self.share.inputs(projection, width)


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
