"""Repositories of every container as networks: logits are those of the same weights stored as float."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from test_awq_gemv import DOWN, write_gemv
from test_compressed_tensors import block
from test_compressed_tensors import write as write_compressed_tensors
from test_gptq_container import SMALL, write_gptq
from tiny_checkpoints import write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.gptq import GptqConfig
from halfbyte.checkpoint.int4 import Int4Weight
from halfbyte.checkpoint.open import open_source
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network, read_block

TOKENS = torch.randint(0, 48, (24,), generator=torch.Generator().manual_seed(0))


def logits(network) -> torch.Tensor:
    return network.logits(network.forward(TOKENS, torch.arange(24), WholeSequences(network.config, batch=1)))


def float_twin(folder, checkpoint: Checkpoint) -> Checkpoint:
    """The same network with its weights stored as float32."""
    tensors = {
        name: checkpoint.tensor(name) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    }
    for name in checkpoint.required - tensors.keys():
        prefix = name.removesuffix(".weight")
        if prefix not in checkpoint.linears:
            tensors[name] = checkpoint.tensor(name)
        else:
            stored = checkpoint.stored(prefix)
            tensors[name] = stored if isinstance(stored, torch.Tensor) else stored.dequantize()
    config = {k: v for k, v in checkpoint.source.config.items() if k != "quantization_config"}
    write_model(folder, config, tensors)
    return Checkpoint(open_source(folder))


REPOSITORIES = {
    "gemv": lambda folder: write_gemv(folder, "gemv", 32),
    "gemv_fast": lambda folder: write_gemv(folder, "gemv_fast", 64),
    "ct": lambda folder: write_compressed_tensors(folder, block()),
    "ct-sym": lambda folder: write_compressed_tensors(folder, block(symmetric=True), symmetric=True),
    "ct-8bit": lambda folder: write_compressed_tensors(folder, block(num_bits=8), bits=8),
    "gptq": lambda folder: write_gptq(folder, GptqConfig(4, 16)),
    "gptq-3bit": lambda folder: write_gptq(folder, GptqConfig(3, 16, checkpoint_format="gptq_v2")),
    "gptq-8bit": lambda folder: write_gptq(folder, GptqConfig(8, -1, sym=True)),
    "gptq-order": lambda folder: write_gptq(folder, GptqConfig(4, 16, desc_act=True), order=True),
}


@pytest.mark.parametrize("kind", REPOSITORIES)
def test_logits_are_those_of_the_float_weights(tmp_path, kind, caplog):
    REPOSITORIES[kind](tmp_path / kind)
    checkpoint = Checkpoint(open_source(tmp_path / kind))
    expected = logits(load_network(float_twin(tmp_path / "float", checkpoint)))
    exact = logits(load_network(checkpoint, "float32"))
    assert torch.allclose(exact, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    with caplog.at_level(logging.WARNING):
        fast = logits(load_network(checkpoint))
    # with zero points anywhere in 0..255 these weights are so large that attention jumps at a rounded activation
    assert (fast - expected).norm() < (0.5 if kind == "ct-8bit" else 0.1) * expected.norm()
    assert (fast - expected).norm() > 0  # 8-bit activations and head: other kernels did run
    # each q, k and v has an order of its own here, as no program writes it: those must be float
    assert ("run as floats" in caplog.text) == (kind in {"gptq-order"})


def one_order(folder) -> Checkpoint:
    """q, k, v share an order, and gate, up: as GPTQ writes them, for they share their input."""
    from safetensors.torch import save_file

    write_gptq(folder, GptqConfig(4, 16, desc_act=True), order=True)
    tensors = load_file(folder / "model.safetensors")
    for layer in range(SMALL["num_hidden_layers"]):
        for first, others in (("self_attn.q", ("self_attn.k", "self_attn.v")), ("mlp.gate", ("mlp.up",))):
            for other in others:
                first_idx = tensors[f"model.layers.{layer}.{first}_proj.g_idx"]
                tensors[f"model.layers.{layer}.{other}_proj.g_idx"] = first_idx.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Checkpoint(open_source(folder))


def test_an_activation_order_runs_in_4_bits(tmp_path, caplog):
    checkpoint = one_order(tmp_path / "gptq")
    expected = logits(load_network(float_twin(tmp_path / "float", checkpoint)))
    assert torch.allclose(logits(load_network(checkpoint, "float32")), expected, atol=1e-4 * expected.abs().max())
    with caplog.at_level(logging.WARNING):
        fast = logits(load_network(checkpoint))
    assert not caplog.records
    assert (fast - expected).norm() < 0.1 * expected.norm()
    block = read_block(checkpoint, 0, takes_order=True)
    assert all(isinstance(w.weight, Int4Weight) for w in block.linears().values())
    assert all(w.order is not None for w in block.linears().values())
    assert all(w.order is None for w in read_block(checkpoint, 0).linears().values())


def test_one_linear_with_an_order(tmp_path):
    """Onnx and reference alike, each linear by itself and within a span."""
    from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels

    block = read_block(one_order(tmp_path), 0, takes_order=True)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for name in ("qkv", "gate_up"):
        w = block.linears()[name]
        expected = x[:, w.order] @ w.weight.dequantize().T
        assert torch.allclose(ReferenceKernels().linear(w)(x), expected, atol=1e-4)
        assert (OnnxKernels().linear(w)(x) - expected).norm() < 0.02 * expected.norm()


def test_8_bits_are_two_times_4(tmp_path):
    """Onnx and reference alike: each input taken twice, by the upper and by the lower half of its weights."""
    from halfbyte.kernels.cpu.onnx_kernels import OnnxKernels

    REPOSITORIES["ct-8bit"](tmp_path)
    checkpoint = Checkpoint(open_source(tmp_path))
    w = read_block(checkpoint, 0, takes_order=True).after.down
    assert isinstance(w.weight, Int4Weight)
    stored = checkpoint.stored(DOWN).dequantize()
    x = torch.randn(5, stored.shape[1], generator=torch.Generator().manual_seed(1))
    expected = x @ stored.T
    assert torch.allclose(ReferenceKernels().linear(w)(x), expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    assert (OnnxKernels().linear(w)(x) - expected).norm() < 0.02 * expected.norm()


def test_gemv_through_the_engine(tmp_path):
    write_gemv(tmp_path, "gemv_fast", 32)
    checkpoint = Checkpoint(open_source(tmp_path))
    assert isinstance(read_block(checkpoint, 0).after.down.weight, Int4Weight)
    assert checkpoint.linear(DOWN).group_size == 32
