"""The first model card of a quantized repository: what it is, its prompt template, its files, how to run it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from halfbyte.checkpoint.config import ModelConfig
    from halfbyte.checkpoint.source import Source
    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.quantize.report import Report

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
CARRIED = ("license", "license_name", "license_link", "model_name", "model_creator", "language", "datasets")
CALIBRATION_NAMES = {"builtin": "Python language reference (pydoc topics)", "wikitext": "wikitext-2-raw-v1 (train)"}


def model_card(source: Source, config: ModelConfig, tokenizer: Tokenizer, report: Report) -> str:
    """README.md with its YAML front matter; the original card, if there is one, is appended."""
    front_matter, original = original_card(source)
    name = model_name(source, front_matter)
    template = prompt_template(tokenizer)
    metadata = {
        **{key: front_matter[key] for key in CARRIED if key in front_matter},
        **({} if "license" in front_matter else {"license": "other"}),
        "base_model": source.spec,
        "model_type": config.model_type,
        "pipeline_tag": "text-generation",
        "quantized_by": "halfbyte",
        **({"prompt_template": template} if template else {}),
        "tags": ["awq", "4-bit"],
    }
    calib = CALIBRATION_NAMES.get(report.calib, report.calib)
    size = f"{report.out_bytes / 1e9:.2f} GB"
    sections = [
        "---\n" + yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True) + "---",
        f"# {name} - AWQ",
        f"4-bit AWQ weights of `{source.spec}`, in AutoAWQ's `gemm` format.",
        *([f"## Prompt template\n\n```\n{template}\n```"] if template else []),
        "## Provided files and AWQ parameters\n\n"
        "| Branch | Bits | GS | AWQ Dataset | Seq Len | Size |\n"
        "| ------ | ---- | -- | ----------- | ------- | ---- |\n"
        f"| main | {report.bits} | {report.group_size} | {calib} | {report.seq_len} | {size} |",
        "## Running it\n\n```python\nfrom halfbyte import LLM, SamplingParams\n\n"
        f'llm = LLM(model="{report.out}", quantization="awq")\n'
        'outputs = llm.generate(["Hello, my name is"], SamplingParams(temperature=0.8, top_p=0.95))\n'
        "print(outputs[0].outputs[0].text)\n```",
        *([f"# Original model card\n\n{original}"] if original else []),
    ]
    return "\n\n".join(sections) + "\n"


def original_card(source: Source) -> tuple[dict[str, object], str]:
    """The source's own README.md as (front matter, text); both empty if it has none or it cannot be read."""
    text = (source.file("README.md") or b"").decode("utf-8", "replace").strip()
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        metadata = yaml.safe_load(found[1])
    except yaml.YAMLError:
        metadata = None
    return (metadata if isinstance(metadata, dict) else {}), text[found.end() :].strip()


def model_name(source: Source, front_matter: dict[str, object]) -> str:
    """A title: the card's own name, or the last part of the source's."""
    stem = source.spec.split("@")[0].removeprefix("pypi:").split("==")[0].rstrip("/").split("/")[-1]
    return str(front_matter.get("model_name") or stem.removesuffix(".gguf"))


def prompt_template(tokenizer: Tokenizer) -> str | None:
    """The chat template rendered for one user turn, `{prompt}` in the user's place; None if there is no template.

    As text to be tokenized: without the first token, if the tokenizer adds it by itself.
    """
    try:
        text = tokenizer.render_chat([{"role": "user", "content": "{prompt}"}])
    except TokenizerError:
        return None
    return text.removeprefix(tokenizer.special_tokens.get("bos_token", "")) if tokenizer.adds_bos else text
