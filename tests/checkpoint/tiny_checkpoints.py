"""Tiny models as files, for tests that need real ones."""

import json

import torch
from safetensors.torch import save_file

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.expected import expected_tensors

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
AWQ_BLOCK = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}


def of_family(model_type: str, **changes) -> dict:
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    return LLAMA | {"architectures": [f"{names[model_type]}ForCausalLM"], "model_type": model_type} | changes


def random_tensors(config: dict, awq=None, dtype=torch.float16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in expected_tensors(ModelConfig.from_dict(config, "tiny"), awq).items():
        if name.endswith(("qweight", "qzeros")):
            tensors[name] = torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int64).to(
                torch.int32
            )
        else:
            tensors[name] = torch.randn(shape, generator=generator).to(torch.float16 if "scales" in name else dtype)
    return tensors


def write_config(folder, config: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))


def write_model(folder, config: dict = LLAMA, tensors=None) -> dict[str, torch.Tensor]:
    write_config(folder, config)
    tensors = random_tensors(config) if tensors is None else tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def write_sharded(folder, config: dict = LLAMA, index: bool = True) -> dict[str, torch.Tensor]:
    write_config(folder, config)
    tensors = random_tensors(config)
    names = list(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    if index:
        weight_map = {name: file for file, part in halves.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors
