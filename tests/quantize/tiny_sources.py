"""Tiny models in folders that can be quantized: weights of usual size, and a tokenizer."""

from __future__ import annotations

from small_tokenizers import byte_level_files
from tiny_checkpoints import of_family, random_tensors, write_model

# The fixture's tokenizer has a few hundred tokens; 48 rows would be too few for them.
VOCABULARY = {"vocab_size": 1024}


def a_source(folder, model_type="llama", **changes):
    config = of_family(model_type, **VOCABULARY, **changes)
    tensors = random_tensors(config)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "embed" not in name:
            tensor.div_(tensor.shape[1] ** 0.5)
        elif name.endswith("norm.weight"):
            tensor.mul_(0.1).add_(1)
    write_model(folder, config, tensors)
    for name, contents in byte_level_files().items():
        (folder / name).write_bytes(contents)
    return folder
