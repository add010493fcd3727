"""Q4_0 weights of a GGUF file run as integers: the same weights, in kernels' form, and the same answers."""

import pytest
import torch
from small_tokenizers import byte_level_files
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.open import open_source
from halfbyte.convert import convert
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network, pick_kernels, read_block

CONFIG = LLAMA | {"vocab_size": 604, "hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    tensors = {name: t if "norm" in name else t * 0.1 for name, t in random_tensors(CONFIG).items()}
    write_model(folder / "m", CONFIG, tensors)
    for name, contents in byte_level_files().items():
        (folder / "m" / name).write_bytes(contents)
    for form in ("Q4_0", "Q5_1"):
        convert(folder / "m", folder / f"{form}.gguf", f"gguf:{form}")
    return folder


def test_the_integers_mean_what_the_file_means(folder):
    checkpoint = Checkpoint(open_source(folder / "Q4_0.gguf"))
    running = checkpoint.for_running()
    for prefix in checkpoint.linears:
        weight = running.stored(prefix)
        assert isinstance(weight, IntWeight)
        assert weight.group_size == 32
        assert torch.equal(weight.dequantize(), checkpoint.tensor(f"{prefix}.weight")), prefix


def test_who_changes_weights_gets_floats(folder):
    block = read_block(Checkpoint(open_source(folder / "Q4_0.gguf")), 0)
    assert all(isinstance(linear.weight, torch.Tensor) for linear in block.linears().values())


def test_kernels_take_them(folder):
    checkpoint = Checkpoint(open_source(folder / "Q4_0.gguf")).for_running()
    assert not isinstance(pick_kernels(checkpoint, "auto", torch.device("cpu")), ReferenceKernels)
    block = read_block(checkpoint, 1)
    assert all(isinstance(linear.weight, Int4Weight) for linear in block.linears().values())
    other = Checkpoint(open_source(folder / "Q5_1.gguf")).for_running()
    assert isinstance(pick_kernels(other, "auto", torch.device("cpu")), ReferenceKernels)


def test_the_network_computes_the_same(folder):
    tokens, positions = torch.arange(24) * 7, torch.arange(24)
    exact, quick = (load_network(Checkpoint(open_source(folder / "Q4_0.gguf")), c) for c in ("float32", "auto"))
    a, b = (n.forward(tokens, positions, WholeSequences(n.config, 1)) for n in (exact, quick))
    assert (a - b).norm() / a.norm() < 0.03  # activations rounded to 8 bits, as with AWQ
