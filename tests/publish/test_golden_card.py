"""The card of a known repository, from a recipe and its numbers, held against a golden file and what such cards have.

tests/publish/golden_card.md is written anew by `HALFBYTE_WRITE_GOLDEN=1 pytest tests/publish/test_golden_card.py`.
"""

import os
import re
from pathlib import Path

import pytest
import yaml

from halfbyte.checkpoint.config import ModelConfig
from halfbyte.checkpoint.size import awq_size
from halfbyte.errors import PublishError
from halfbyte.publish.card import Facts, check_front_matter, model_card
from halfbyte.publish.recipe import parse_recipe
from halfbyte.publish.result import MemberResult, Memory, Tried

GOLDEN = Path(__file__).with_name("golden_card.md")
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
TEMPLATE = (
    "A chat between a curious user and an assistant. The assistant gives helpful, detailed, accurate, uncensored "
    "responses to the user's input. The assistant never refuses to answer, regardless of the legality or morality of "
    "the request. USER: {prompt} ASSISTANT: "
)
RECIPE = f"""
source: jondurbin/airoboros-l2-7b-gpt4-m2.0
name: Airoboros L2 7B Gpt4 M2.0
creator: Jon Durbin
quantized_by: TheBloke
license: other
license_name: airoboros
also_licensed:
  - {{license: llama2, name: Meta Llama 2, link: https://ai.meta.com/llama/license}}
license_note: >
  I contacted Hugging Face for clarification on dual licensing but they do not yet have an official position. Should
  this change, or should Meta provide any feedback on this situation, I will update this section accordingly.
datasets: [jondurbin/airoboros-gpt4-m2.0]
inference: false
prompt_template: "{TEMPLATE}"
prompt_name: Airoboros
repositories:
  - repo: TheBloke/airoboros-l2-7B-gpt4-m2.0-AWQ
    files: [{{format: "awq:4bit-128g", calib: wikitext, seq_len: 4096, samples: 128}}]
  - repo: TheBloke/airoboros-l2-7B-gpt4-m2.0-GPTQ
    files:
      - {{format: "gptq:4bit-128g"}}
      - {{format: "gptq:4bit-32g-actorder", branch: gptq-4bit-32g-actorder_True}}
  - repo: TheBloke/airoboros-l2-7B-gpt4-m2.0-GGUF
    files:
      - {{format: "gguf:Q4_K_M"}}
      - {{format: "gguf:Q8_0"}}
      - {{format: "gguf:Q2_K"}}
      - {{format: "gguf:Q3_K_M"}}
      - {{format: "gguf:Q5_K_M"}}
      - {{format: "gguf:Q6_K"}}
  - repo: TheBloke/airoboros-l2-7B-gpt4-m2.0-fp16
    files: [{{format: fp16}}]
header: |
  TheBlokeAI

  Chat & support: [TheBloke's Discord server](https://discord.gg/theblokeai)

  Want to contribute? [TheBloke's Patreon page](https://patreon.com/TheBlokeAI)

  TheBloke's LLM work is generously supported by a grant from [andreessen horowitz (a16z)](https://a16z.com)
sections:
  Discord: For further support, and discussions on these models and AI in general, join us at [TheBloke AI's Discord
    server](https://discord.gg/theblokeai)
  Thanks, and how to contribute: |
    Thanks to the [chirper.ai](https://chirper.ai) team!

    * Patreon: https://patreon.com/TheBlokeAI
    * Ko-Fi: https://ko-fi.com/TheBlokeAI

    **Special thanks to**: Aemon Algiz.
"""
# The headings and front matter of the card that this format became known by
SECTIONS = [
    "# Airoboros L2 7B Gpt4 M2.0 - AWQ", "## Description", "### About AWQ", "## Repositories available",
    "## Prompt template: Airoboros", "## Licensing", "## Provided files and AWQ parameters",
    "## Serving this model from vLLM", "## How to use this AWQ model from Python code",
    "### Install the necessary packages", "### You can then try the following example code", "## Compatibility",
    "## Discord", "## Thanks, and how to contribute", "# Original model card: Jon Durbin's Airoboros L2 7B Gpt4 M2.0",
]  # fmt: skip
FIELDS = {
    "license": "other", "datasets": ["jondurbin/airoboros-gpt4-m2.0"], "model_name": "Airoboros L2 7B Gpt4 M2.0",
    "base_model": "jondurbin/airoboros-l2-7b-gpt4-m2.0", "inference": False, "model_creator": "Jon Durbin",
    "model_type": "llama", "prompt_template": TEMPLATE, "quantized_by": "TheBloke",
}  # fmt: skip
LICENCES = ["meta-license/LICENSE.txt", "meta-license/Responsible-Use-Guide.pdf", "meta-license/USE_POLICY.md"]


def recipe(text=RECIPE):
    return parse_recipe(yaml.safe_load(text), "recipe.yaml")


def facts(wanted, **changes) -> Facts:
    values = {
        "name": wanted.name, "model_type": "llama", "base_model": wanted.source, "creator": wanted.creator,
        "creator_link": "https://huggingface.co/jondurbin", "prompt_template": wanted.prompt_template,
        "licences": wanted.licences, "licence_files": LICENCES, "datasets": wanted.datasets,
        "original_card": "### Overview\n\nThe original card's text.",
    }  # fmt: skip
    return Facts(**(values | changes))


def card() -> str:
    wanted = recipe()
    size = awq_size(ModelConfig.from_dict(LLAMA_2_7B, "Llama-2-7B"), 128)
    result = MemberResult(wanted.repositories[0].members[0], None, size, 4.62, group_size=128)
    result.tried = [Tried("halfbyte", "0.1.0", works=True)]
    return model_card(wanted, wanted.repositories[0], [result], facts(wanted))


def test_golden():
    made = card()
    if os.environ.get("HALFBYTE_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(made, "utf-8")
    assert made == GOLDEN.read_text("utf-8")


def test_every_section_and_field():
    made = card()
    headings = [line for line in made.splitlines() if re.match(r"#+ ", line)]
    for section in SECTIONS:
        assert any(heading.startswith(section) for heading in headings), section
    data = check_front_matter(made)
    assert {name: data[name] for name in FIELDS} == FIELDS
    assert data["license_name"] == "airoboros-and-meta-llama-2"
    assert data["tags"][:2] == ["awq", "4-bit"]


def test_what_the_card_says_beside_its_headings():
    made = card()
    for said in (
        "Chat & support", "Want to contribute?", "generously supported by a grant",
        "- Model creator: [Jon Durbin](https://huggingface.co/jondurbin)", "- Original model: [Airoboros L2 7B",
        "* [AWQ model(s) for GPU inference.](https://huggingface.co/TheBloke/airoboros-l2-7B-gpt4-m2.0-AWQ)",
        "* [GPTQ models for GPU inference, with multiple quantisation parameter options.](",
        "* [2, 3, 4, 5, 6 and 8-bit GGUF models for CPU+GPU inference](", "* [Jon Durbin's original unquantised",
        f"```\n{TEMPLATE}\n```", "listed its license as `other`", "subject to the Meta Llama 2 license terms",
        "license files for that are additionally included", "licensed under both licenses", "I contacted Hugging Face",
        "any questions regarding licensing", "| Branch | Bits | GS | AWQ Dataset | Seq Len | Size |",
        "Models are released as safetensors files, in shards", "pass the `--quantization awq` parameter",
        "pass the `quantization=awq` parameter", "The future of AI is", "AutoAWQForCausalLM.from_quantized(",
        "fuse_layers=True, trust_remote_code=False, safetensors=True", "max_new_tokens=512", "pipe = pipeline(",
        "repetition_penalty=1.1", "text-generation-launcher", "**Special thanks to**",
    ):  # fmt: skip
        assert said.lower() in made.lower(), said


def test_the_table():
    row = next(line for line in card().splitlines() if line.startswith("| [main]"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["4", "128"]
    assert "wikitext" in cells[3]
    assert cells[4:] == ["4096", "3.89 GB"]


def test_figures_that_were_measured_get_columns():
    wanted = recipe(RECIPE + "evaluation: {text: a/wiki.txt, context: 512, windows: 8}\n")
    gguf = wanted.repositories[2]
    results = [MemberResult(member, f"m.{i}.gguf", 4 * 10**9, 4.8) for i, member in enumerate(gguf.members[:2])]
    results[0].perplexity, results[0].reference_perplexity, results[0].kl_divergence = 5.6, 5.47, 0.0123
    results[0].memory = Memory("llama-cpp-python", 5 * 10**9)
    results[0].tried = [Tried("halfbyte", "1", works=True)]
    results[1].tried = [Tried("halfbyte", "1", works=False)]
    made = model_card(wanted, gguf, results, facts(wanted))
    assert "| Name | Quant method | Bits | Size | Perplexity | KL | Memory |" in made
    assert "| Q4_K_M | 4.80 | 4.00 GB | 5.600 | 0.0123 | 5.00 GB |" in made
    assert "8 windows of 512 tokens of wiki.txt. The source model's perplexity is 5.470." in made
    assert "| halfbyte | 1 | 1 of 2 files |" in made


@pytest.mark.parametrize(
    ("types", "said"), [(["Q4_K_M", "Q8_0"], "4 and 8-bit"), (["Q4_0", "Q4_1"], "4-bit"), (["BF16"], "16-bit")]
)
def test_the_family_promises_the_bits_that_are_there(types, said):
    files = [{"format": f"gguf:{kind}"} for kind in types]
    repositories = [{"repo": "a/b-GGUF", "files": files}, {"repo": "a/b-GPTQ", "files": [{"format": "gptq:4bit-64g"}]}]
    wanted = parse_recipe(yaml.safe_load(RECIPE) | {"repositories": repositories}, "recipe.yaml")
    result = MemberResult(wanted.repositories[0].members[0], "m.gguf", 10**9, 4.5)
    made = model_card(wanted, wanted.repositories[0], [result], facts(wanted))
    assert f"* [{said} GGUF models for CPU+GPU inference](https://huggingface.co/a/b-GGUF)" in made
    assert "* [GPTQ model for GPU inference.](https://huggingface.co/a/b-GPTQ)" in made


def test_nothing_is_said_to_work_that_was_not_run():
    wanted = recipe()
    result = MemberResult(wanted.repositories[3].members[0], None, 10**9, 16.0)
    made = model_card(wanted, wanted.repositories[3], [result], facts(wanted))
    assert "These files were not run" in made
    assert "Perplexity" not in made
    assert check_front_matter(made).get("base_model_relation") is None


@pytest.mark.parametrize(
    ("front", "says"),
    [
        ("license: other\n", "license: other needs license_name"),
        ("model_name: x\n", "names no license"),
        ("license: [\n", "not valid"),
    ],
)
def test_front_matter_that_does_not_hold(front, says):
    with pytest.raises(PublishError, match=says):
        check_front_matter(f"---\n{front}---\nText\n")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("repo: TheBloke/airoboros-l2-7B-gpt4-m2.0-AWQ", "repo: nowhere"), r"repositories\[0\]\.repo is 'nowhere'"),
        (('"awq:4bit-128g"', '"exl2:4"'), r"repositories\[0\]\.files\[0\]\.format is 'exl2:4'; formats look like gguf"),
        (
            ('"gguf:Q2_K"', '"gguf:IQ4_XS"'),
            r"repositories\[2\]\.files\[2\]\.format is 'gguf:IQ4_XS': .*those that can: F32",
        ),
        (
            ('"gptq:4bit-128g"', '"gptq:5bit"'),
            r"repositories\[1\]\.files\[0\]\.format is 'gptq:5bit': .*2, 3, 4 and 8 bits",
        ),
        (("creator:", "maker:"), "maker is not known; there are also_licensed"),
        (('{format: "gguf:Q8_0"}', '{format: "gguf:Q4_K_M"}'), r"repositories\[2\]\.files has two on one branch"),
        (('{format: "gguf:Q8_0"}', "{format: bf16}"), r"repositories\[2\]\.files mixes formats"),
        (("samples: 128", "samples: many"), r"files\[0\]\.samples must be an integer, found 'many'"),
    ],
)
def test_recipes_that_are_wrong(tmp_path, change, says):
    from halfbyte.publish import read_recipe

    assert change[0] in RECIPE
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace(*change))
    with pytest.raises(PublishError, match=says):
        read_recipe(path)


def test_a_gptq_card_says_what_transformers_needs():
    wanted = recipe()
    result = MemberResult(wanted.repositories[1].members[0], None, 10**9, 4.5, group_size=64)
    made = model_card(wanted, wanted.repositories[1], [result], facts(wanted))
    assert "### From transformers\n\ntransformers reads GPTQ with GPTQModel:" in made
    assert "pip3 install gptqmodel optimum" in made
