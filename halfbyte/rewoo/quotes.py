"""Grammars of words out of a text: an answer, or an argument, that the text holds as it stands."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_QUOTE = 80  # characters
MOST_READ = 2000  # characters of a passage; about 500 tokens
_SENTENCE_END = re.compile(r"(?<=\w\w\w[.!?])\s+|\s*\n\s*")  # initials (J. K. Bell) end no sentence
_CLAUSE_END = re.compile(_SENTENCE_END.pattern + r"|[,;]\s+(?=[a-z])")
_SMALL = {
    *("a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "in", "is", "it", "its", "of", "on", "or"),
    *("that", "the", "this", "to", "was", "were", "who", "with"),
}
_ASKS = re.compile(r"\b(?:which|what|who|whose|where|when|is|are|was|were|does|do|did)\b", re.IGNORECASE)
# A quote begins and ends within a word, and holds nothing that would end a plan's argument or begin a reference.
_SHAPE = rf"/\w([^\n\r:#\[\]]{{0,{LONGEST_QUOTE - 2}}}[\w%)])?/"


def quote_terminal(text: str, name: str = "QUOTE") -> str:
    """Lark terminal (llguidance) of runs of whole words within one sentence of a text; "" if it has no words."""
    return _terminal(_SENTENCE_END.split(text), name)


def answer_terminal(passage: str, question: str, name: str = "QUOTE") -> str:
    """The same of answers to a question that a passage may hold; "" if it has no words.

    An answer does not repeat the question: words that it has are no part of one, nor is the next clause. A question
    that ends with a choice ("…, this or that") is answered by one of it.
    """
    if options := _choice(question):
        return f"{name}: {' | '.join(json.dumps(option, ensure_ascii=False) for option in options)}"
    asked = _words(question)
    pieces = [piece for clause in _CLAUSE_END.split(passage) for piece in _without(asked, clause)]
    return _terminal(pieces, name) or quote_terminal(passage, name)


def relevant(passage: str, question: str, most: int = MOST_READ) -> str:
    """A passage, less the sentences that share fewest words with the question if it is longer than that."""
    if len(passage) <= most:
        return passage
    asked = _words(question) - _SMALL
    sentences = _SENTENCE_END.split(passage)
    order = sorted(range(len(sentences)), key=lambda i: (-len(asked & _words(sentences[i])), i))
    kept, room = [], most
    for i in order:
        room -= len(sentences[i]) + 1
        if room < 0:
            break
        kept.append(i)
    return " ".join(sentences[i] for i in sorted(kept)) or passage[:most]


def _choice(question: str) -> list[str]:
    """What a question gives to choose from: "Which is older, this, that or the other"."""
    head, *rest = question.strip(" ?").split(",")
    *before, last = ",".join(rest).rsplit(" or ", 1)
    if not before or not _ASKS.search(head):
        return []
    return [option.strip() for option in [*before[0].split(","), last] if option.strip()]


def _without(asked: set[str], clause: str) -> Iterator[str]:
    """What lies between the words that were asked with; a name with a word of its own stays whole."""
    kept: list[str] = []
    for capitalised, run in groupby([*clause.split(), "."], key=lambda word: word[:1].isupper()):
        words = list(run)
        whole = capitalised and not _words(" ".join(words)) <= asked | _SMALL
        for word in words:
            if whole or (re.search(r"\w", word) and not _words(word) & asked):
                kept.append(word)
            else:
                yield _stripped(kept)
                kept = []


def _stripped(words: list[str]) -> str:
    """Without the small words that it begins and ends with."""
    small = [word.lower() in _SMALL for word in words]
    if all(small):
        return ""
    return " ".join(words[small.index(False) : len(words) - small[::-1].index(False)])


def _words(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"\w+", text)}


def _terminal(texts: list[str], name: str) -> str:
    sentences = [text for text in dict.fromkeys(texts) if re.search(r"\w", text)]
    if not sentences:
        return ""
    lines = [f"{name}_{i}: %regex {json.dumps({'substring_words': s})}" for i, s in enumerate(sentences)]
    either = " | ".join(f"{name}_{i}" for i in range(len(sentences)))
    return "\n".join([f"{name}: {name}_SHAPE & ({either})", f"{name}_SHAPE: {_SHAPE}", *lines])
