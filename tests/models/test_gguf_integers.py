"""GGUF weights of 4 to 8 bits run as integers: the same weights, in kernels' form, and the same answers."""

import pytest
import torch
from small_tokenizers import byte_level_files
from tiny_checkpoints import LLAMA, random_tensors, write_model

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.int4 import Int4Weight, IntWeight
from halfbyte.checkpoint.kernel_form import kernel_form
from halfbyte.checkpoint.open import open_source
from halfbyte.convert import convert
from halfbyte.kernels.reference import ReferenceKernels
from halfbyte.models.attend import WholeSequences
from halfbyte.models.loader import load_network, pick_kernels, read_block

CONFIG = LLAMA | {"vocab_size": 604, "hidden_size": 256, "intermediate_size": 256}
FORMS = ["Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q6_K", "Q8_0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    tensors = {name: t if "norm" in name else t * 0.05 for name, t in random_tensors(CONFIG).items()}
    write_model(folder / "m", CONFIG, tensors)
    for name, contents in byte_level_files().items():
        (folder / "m" / name).write_bytes(contents)
    for form in [*FORMS, "Q2_K"]:
        convert(folder / "m", folder / f"{form}.gguf", f"gguf:{form}")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_the_integers_mean_what_the_file_means(folder, form):
    checkpoint = Checkpoint(open_source(folder / f"{form}.gguf"))
    running = checkpoint.for_running()
    for prefix in checkpoint.linears:
        weight = running.stored(prefix)
        assert isinstance(weight, IntWeight)
        meant = checkpoint.tensor(f"{prefix}.weight")  # by gguf's dequantize
        assert torch.equal(weight.dequantize(), meant), prefix
        packed, order = kernel_form(weight)
        assert max(packed.q.max(), packed.z.max()) <= 15
        taken = torch.zeros_like(meant)
        taken.index_add_(1, torch.arange(meant.shape[1]) if order is None else order, packed.dequantize())
        assert torch.allclose(taken, meant, atol=1e-6), prefix


def test_who_changes_weights_gets_floats(folder):
    block = read_block(Checkpoint(open_source(folder / "Q4_0.gguf")), 0)
    assert all(isinstance(linear.weight, torch.Tensor) for linear in block.linears().values())


@pytest.mark.parametrize("form", FORMS)
def test_kernels_take_them(folder, form):
    checkpoint = Checkpoint(open_source(folder / f"{form}.gguf")).for_running()
    kernels = pick_kernels(checkpoint, "auto", torch.device("cpu"))
    assert not isinstance(kernels, ReferenceKernels)
    block = read_block(checkpoint, 1, takes_order=True)
    assert all(isinstance(linear.weight, Int4Weight) for linear in block.linears().values())


def test_what_has_no_such_form(folder):
    other = Checkpoint(open_source(folder / "Q2_K.gguf")).for_running()
    assert isinstance(other.stored("model.layers.1.mlp.up_proj"), torch.Tensor)


@pytest.mark.parametrize("form", FORMS)
def test_the_network_computes_the_same(folder, form):
    tokens, positions = torch.arange(24) * 7, torch.arange(24)
    exact, quick = (load_network(Checkpoint(open_source(folder / f"{form}.gguf")), c) for c in ("float32", "auto"))
    a, b = (n.forward(tokens, positions, WholeSequences(n.config, 1)) for n in (exact, quick))
    assert (a - b).norm() / a.norm() < 0.05  # activations rounded to 8 bits, as with AWQ
