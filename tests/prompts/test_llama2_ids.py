"""Golden Llama 2 token ids of every template; make_llama2_ids.py tells where they come from."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from halfbyte.prompts.templates import TEMPLATES, render_chat

GOLDEN = json.loads(Path(__file__).with_name("llama2_ids.json").read_text(encoding="utf-8"))
IDS = {piece: id_ for id_, piece, _ in GOLDEN["pieces"]}
SCORES = {piece: score for _, piece, score in GOLDEN["pieces"]}


def encode(text: str) -> list[int]:
    """Llama 2's tokenization, written once more: <s>, then each stretch between special tokens on its own."""
    ids = [1]
    for part in re.split(r"(<s>|</s>)", text):
        if part in ("<s>", "</s>"):
            ids.append(IDS[part])
        elif part:
            ids += merge(list("▁" + part.replace(" ", "▁")))
    return ids


def merge(symbols: list[str]) -> list[int]:
    """Byte pair encoding by score: the best pair first, of equals the leftmost."""
    while True:
        pairs = [(SCORES[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in IDS]
        if not pairs:
            return [i for s in symbols for i in ([IDS[s]] if s in IDS else [IDS[f"<0x{b:02X}>"] for b in s.encode()])]
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['template']}-{len(c['messages'])}")
def test_token_ids(case):
    text = render_chat(case["template"], case["messages"])
    assert encode(text) == case["ids"]


def test_every_template_is_there():
    assert {case["template"] for case in GOLDEN["cases"]} == set(TEMPLATES)
