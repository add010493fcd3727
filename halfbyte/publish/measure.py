"""What is measured of finished weights: perplexity and KL, memory, and the programs that run them."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.evaluate.perplexity import Perplexity, cut_windows, measure, read_text, tokenize
from halfbyte.models.loader import exact_network
from halfbyte.publish.result import Memory, Tried
from halfbyte.publish.snippets import DEQUANTIZED

if TYPE_CHECKING:
    from halfbyte.publish.recipe import Evaluation

PROMPT = "The capital of France is"
_SECONDS = 1800

# Each runs in a process of its own: that gives its memory, and no crash of another program ends ours.
_PROGRAMS = {
    "halfbyte": """
from halfbyte import LLM, SamplingParams
text = LLM(model=place).generate([prompt], SamplingParams(max_tokens=8, temperature=0))[0].outputs[0].text
""",
    "llama-cpp-python": """
from llama_cpp import Llama
text = Llama(place, n_ctx=256, verbose=False)(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
""",
    "transformers": """
import importlib.util, os
if importlib.util.find_spec("gptqmodel"):  # with fewer cores than this, version 7.7.0 cannot be imported
    cores = max(os.cpu_count() or 1, 8)
    os.cpu_count = lambda: cores
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig
import halfbyte.integrations.transformers
method = getattr(AutoConfig.from_pretrained(place), "quantization_config", {}).get("quant_method")
options = {"quantization_config": DEQUANTIZED} if method == "compressed-tensors" else {}
tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place, **options)
ids = tokenizer(prompt, return_tensors="pt")
text = tokenizer.decode(model.generate(**ids, max_new_tokens=8, do_sample=False)[0][ids.input_ids.shape[1]:])
""".replace("DEQUANTIZED", DEQUANTIZED),
}
_REPORT = """
import json, resource, sys
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"text": text, "memory": peak}))
"""
_PACKAGES = {"llama-cpp-python": "llama_cpp_python"}
_OWN = ("halfbyte", "transformers")
PROGRAMS_FOR = {
    "gguf": ("llama-cpp-python", "halfbyte"),
    "awq": _OWN,
    "gptq": _OWN,
    "compressed-tensors": _OWN,
    "fp16": _OWN,
    "bf16": _OWN,
}
_NEEDS = {("gptq", "transformers"): "gptqmodel", ("compressed-tensors", "transformers"): "compressed-tensors"}


def perplexity_beside(place: Path, source: str, evaluation: Evaluation) -> Perplexity:
    """Perplexity of finished weights, and KL from their source, in float32. Both are held in memory."""
    tokenizer = Tokenizer.from_source(open_source(source))
    tokens = cut_windows(tokenize(tokenizer, read_text(Path(evaluation.text))), evaluation.context, evaluation.windows)
    ours, theirs = (exact_network(Checkpoint(open_source(spec))) for spec in (place, source))
    return measure(ours, tokens, theirs)


def run_programs(place: Path, kind: str) -> tuple[list[Tried], Memory | None]:
    """Load the files and answer, in every program that is installed here and is meant for them.

    Returns what happened, and the memory that the first of them took that worked.
    """
    tried: list[Tried] = []
    memory: Memory | None = None
    for program in PROGRAMS_FOR.get(kind, ("halfbyte",)):
        try:
            found = version(_PACKAGES.get(program, program))
            if (kind, program) in _NEEDS:
                found += f" with {_NEEDS[kind, program]} {version(_NEEDS[kind, program])}"
        except PackageNotFoundError:
            continue
        answer = _run(program, place)
        if answer is None or not str(answer.get("text", "")).strip():
            tried.append(Tried(program, found, works=False, detail="no answer"))
            continue
        memory = memory or Memory(program, int(answer["memory"]))
        tried.append(Tried(program, found, works=True, detail=str(answer["text"]).strip()))
    return tried, memory


def _run(program: str, place: Path) -> dict[str, Any] | None:
    code = f"place, prompt = {str(place)!r}, {PROMPT!r}\n{_PROGRAMS[program]}{_REPORT}"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        return None
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return None
    value = json.loads(lines[-1])
    return value if isinstance(value, dict) else None
