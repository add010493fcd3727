"""What a loaded network keeps in memory: its weights once, as the kernels hold them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.models.loader import EMBEDDING, load_network

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")


def resident(path: Path) -> int:
    """Bytes of the file that are mapped into this process and in memory."""
    total, is_it = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            is_it = line.endswith(str(path.resolve()))
        elif is_it and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_of_the_file_only_embeddings_that_were_looked_up_stay(smollm2_awq):
    weights = smollm2_awq / "model.safetensors"
    before = resident(weights)
    checkpoint = Checkpoint(open_source(str(smollm2_awq)))
    network = load_network(checkpoint, device="cpu")
    assert resident(weights) - before < 4e6
    assert torch.equal(network.embedding, checkpoint.tensor(EMBEDDING))
    assert resident(weights) - before > network.embedding.nbytes  # it is the file's, not a copy
