"""Writes llama2_ids.json: token ids of rendered chats under Llama 2's vocabulary.

    python tests/prompts/make_llama2_ids.py VOCABULARY.gguf

VOCABULARY.gguf is Llama 2's SentencePiece vocabulary as GGUF, such as vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf
in the source distribution of llama-cpp-python. If llama_cpp can be imported, every list of ids is compared with
llama.cpp's own. Beside the ids stand those pieces of the vocabulary that occur in the texts: no other piece can take
part in the merges, so that the test needs no more than they.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gguf import GGUFReader

from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.prompts.templates import TEMPLATES, render_chat

OUT = Path(__file__).with_name("llama2_ids.json")
ONE = [{"role": "user", "content": "Tell me about AI"}]
TWO = [
    {"role": "system", "content": "Be brief."},
    *ONE,
    {"role": "assistant", "content": "AI is software that learns."},
    {"role": "user", "content": "Give two examples:\n- one old\n- one new — 2023, “café” ☕"},
]


def main(path: str) -> None:
    tokenizer = Tokenizer.from_source(open_source(path))
    cases = []
    for name in TEMPLATES:
        for messages in (ONE, TWO):
            text = render_chat(name, messages)
            ids = tokenizer.encode(text)
            check(path, text, ids)
            cases.append({"template": name, "messages": messages, "ids": ids})
    texts = " ".join(render_chat(c["template"], c["messages"]) for c in cases)
    pieces = [p for p in vocabulary(path) if p[1].replace("▁", " ") in " " + texts or p[1].startswith("<0x")]
    lines = [json.dumps(p, ensure_ascii=False) for p in pieces]
    body = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    OUT.write_text('{"pieces": [\n' + ",\n".join(lines) + '\n],\n"cases": [\n' + body + "\n]}\n", encoding="utf-8")
    print(f"{len(cases)} cases, {len(pieces)} pieces")


def vocabulary(path: str) -> list[tuple[int, str, float]]:
    """(id, piece, score)."""
    fields = GGUFReader(path).fields
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    texts = [bytes(tokens.parts[i]).decode() for i in tokens.data]
    return [(i, text, float(scores.parts[j][0])) for i, (text, j) in enumerate(zip(texts, scores.data, strict=True))]


def check(path: str, text: str, ids: list[int]) -> None:
    try:
        import llama_cpp
    except ImportError:
        return
    reference = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
    assert reference.tokenize(text.encode(), add_bos=True, special=True) == ids, text


if __name__ == "__main__":
    main(sys.argv[1])
