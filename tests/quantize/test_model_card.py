from __future__ import annotations

import pytest
import yaml
from small_tokenizers import MemorySource, byte_level_files
from tiny_network import tiny_config

from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.quantize.card import FRONT_MATTER, model_card, model_name, original_card
from halfbyte.quantize.report import Report

REPORT = Report("org/base@main", "out", 4, 128, "wikitext", 128, 4096, 0, out_bytes=3_889_000_000)


def source(readme: str | None) -> MemorySource:
    files = byte_level_files()
    return MemorySource(files if readme is None else files | {"README.md": readme.encode()})


@pytest.mark.parametrize(
    ("readme", "metadata", "text"),
    [
        (None, {}, ""),
        ("# Title\nwords", {}, "# Title\nwords"),
        ("---\nlicense: mit\n---\n# Title", {"license": "mit"}, "# Title"),
        ("---\nlicense: 'a --- b'\n---\n", {"license": "a --- b"}, ""),
        ("---\nlicense: [unclosed\n---\ntext", {}, "text"),
        ("---\nno end", {}, "---\nno end"),
    ],
)
def test_the_original_card_is_taken_apart(readme, metadata, text):
    assert original_card(source(readme)) == (metadata, text)


def test_the_card_says_what_the_table_of_files_must_say():
    original = source("---\nlicense: llama2\nlicense_name: x\ndatasets: [a/b]\nmodel_name: Base\n---\nOld words.")
    card = model_card(original, tiny_config(), Tokenizer.from_source(original), REPORT)
    head = yaml.safe_load(FRONT_MATTER.match(card)[1])
    assert head["license"] == "llama2"
    assert head["datasets"] == ["a/b"]
    assert head["quantized_by"] == "halfbyte"
    assert "| main | 4 | 128 | wikitext-2-raw-v1 (train) | 4096 | 3.89 GB |" in card
    assert "# Base - AWQ" in card
    assert card.endswith("# Original model card\n\nOld words.\n")


def test_a_licence_that_is_not_known_is_other():
    plain = source(None)
    card = model_card(plain, tiny_config(), Tokenizer.from_source(plain), REPORT)
    assert yaml.safe_load(FRONT_MATTER.match(card)[1])["license"] == "other"


def test_names():
    plain = MemorySource({})
    for spec, name in (("org/base@main", "base"), ("pypi:llm-x==1.0", "llm-x"), ("/models/tiny.gguf", "tiny")):
        plain.spec = spec
        assert model_name(plain, {}) == name
