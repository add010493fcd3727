from __future__ import annotations

import yaml

from halfbyte.checkpoint.gguf_card import model_card


def test_the_real_file_names_its_licence(smollm2_source):
    head = yaml.safe_load(smollm2_source.file("README.md").decode().strip("-\n"))
    assert head["license"] == "apache-2.0"
    assert head["model_creator"] == "HuggingFaceTB"
    assert "README.md" in smollm2_source.files()


def test_metadata_without_any_of_it_gives_no_card():
    assert model_card({"general.architecture": "llama", "general.license": 7}) is None


def test_hostile_text_stays_one_value():
    head = yaml.safe_load(model_card({"general.license": "mit\nevil: 1\n---\n"}).decode().split("\n---\n")[0])
    assert head == {"license": "mit\nevil: 1\n---\n"}
