"""Takes answers to closed-context prompts apart: what they say, and what stands under each `Source:`.

An answer cites under `Source:` (`Sources:`, `Source 1:`, `Reference(s):` and the like are read too) with a block's
`key: value` lines. A group ends at a blank line, unless a key of the prompt's metadata follows. Within the line of a
statement the word is prose unless a key or value of that metadata, or an address, follows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.prompts.position import Line, Span, Text

if TYPE_CHECKING:
    from halfbyte.prompts.context import ContextPrompt

_WORD = r"(?:sources?|source\(s\)|references?|reference\(s\))"
_NUMBER = r"(?:\s{0,3}(?:\[\d{1,3}\]|#?\d{1,3}))?"
_HEADER = re.compile(rf"[ *_#>\t-]*{_WORD}{_NUMBER}[ *_]*:(?P<rest>.*)", re.IGNORECASE)
_INLINE = re.compile(rf"(?:(?<=\s)|(?P<open>[(\[]))(?P<word>{_WORD}){_NUMBER}:(?=\s|$)", re.IGNORECASE)
_BULLET = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)]|\[\d{1,3}\])\s+")
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]*)\)")
_ADDRESS = re.compile(r"(?:https?://|www\.)\S")
_BETWEEN = re.compile(r"\s*[,;|]\s+")
_WRAPPING = "<>\"'`{}[](),;|. \t"
_WORDS = re.compile(r"\S+")
_BRACKET = re.compile(r"[\[\]()]")
_CLOSED_BY = {"(": ")", "[": "]"}

LONGEST = 300  # characters of a citation that begins within a line: what is looked at, to stay linear
_MOST_WORDS = 40  # of a value that prose may follow

Pair = tuple[str | None, str]  # a key and a value; no key: a value alone, as in `Source: https://web.site/123`


@dataclass(frozen=True, slots=True)
class CitedGroup:
    """What stands under one `Source:`, and the statement before it."""

    pairs: tuple[Pair, ...]
    statement: str
    span: Span


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """An answer taken apart: its text without citations, and the citations."""

    text: str
    groups: tuple[CitedGroup, ...]


def parse_answer(prompt: ContextPrompt, answer: str) -> ContextAnswer:
    """Take an answer apart. Every text is an answer: this raises nothing for a string."""
    return _Reader(_Known(prompt), Text(answer)).read()


def normal(value: str) -> str:
    """A value as it is compared: without what answers put round it."""
    link = _LINK.fullmatch(value.strip())
    return " ".join((link[1] if link else value).split()).strip(_WRAPPING)


class _Known:
    """The keys and values of a prompt's metadata, and how a line is read by them."""

    def __init__(self, prompt: ContextPrompt) -> None:
        pairs = [pair for block in prompt.blocks for pair in block.metadata]
        self.keys = {key.casefold(): key for key, _ in pairs} | {key: key for key, _ in pairs}
        self.values = {normal(value) for _, value in pairs}
        self.first_words = {normal(value.split()[0]) for _, value in pairs if value}
        self.pairs = {(key, normal(value)) for key, value in pairs}

    def key(self, word: str) -> str | None:
        """The prompt's own spelling of a key that it has."""
        word = word.strip(_WRAPPING)
        return self.keys.get(word) or self.keys.get(word.casefold())

    def begins(self, text: str) -> bool:
        """Whether a source stands at the start of a text."""
        head = text[:LONGEST].strip()
        if self.key(head.partition(":")[0]) is not None and ":" in head:
            return True
        return bool(_ADDRESS.match(head.lstrip(_WRAPPING))) or self.has(None, head) or self.known_words(None, head) > 0

    def known_words(self, key: str | None, text: str) -> int:
        """How many words at the start of a text are a value that a block has (for this key); 0 for none."""
        words = text.split(maxsplit=_MOST_WORDS)[:_MOST_WORDS]
        if not words or normal(words[0]) not in self.first_words:
            return 0
        return next((n for n in range(len(words), 0, -1) if self.has(key, " ".join(words[:n]))), 0)

    def pairs_of(self, text: str) -> list[Pair]:
        """The pairs of one line: usually one, several where words that are keys stand in the value."""
        pairs: list[tuple[str | None, list[str]]] = []
        key, colon, rest = text.partition(":")
        if colon and key.strip() and (not rest or rest[0].isspace()):
            pairs.append((self.key(key) or key.strip(), []))
            text = rest
        else:
            pairs.append((None, []))
        for word in text.split():
            own = self.key(word[:-1]) if word.endswith(":") else None
            if own is not None:
                pairs.append((own, []))
            else:
                pairs[-1][1].append(word)
        return [pair for k, words in pairs if k or words for pair in self._values(k, " ".join(words))]

    def _values(self, key: str | None, value: str) -> list[Pair]:
        """One pair, or several where values stand alone and between commas."""
        if key is None and normal(value) not in self.values:
            parts = _BETWEEN.split(value)
            if any(normal(part) in self.values for part in parts):
                return [(None, normal(part)) for part in parts]
        bare = normal(value)
        return [(key, bare if self.has(key, bare) else value)]

    def has(self, key: str | None, value: str) -> bool:
        """Whether a block has this pair, or this value where no key is given."""
        return normal(value) in self.values if key is None else (key, normal(value)) in self.pairs


class _Reader:
    def __init__(self, known: _Known, text: Text) -> None:
        self.known, self.text = known, text
        self.lines = text.lines()
        self.prose: list[str] = []
        self.statement: list[str] = []
        self.spent = False  # whether a citation has followed the statement
        self.groups: list[CitedGroup] = []
        self.pairs: list[Pair] = []
        self.begun: int | None = None  # where the citation that is being read starts
        self.end = 0
        self.fenced = False  # whether its pairs stand in a fence of their own

    def read(self) -> ContextAnswer:
        blank = False
        for number, line in enumerate(self.lines):
            if self._header(line) or self._inline(line, number):
                blank = False
                continue
            if self.begun is not None:
                if not line.text.strip():
                    blank = True
                    continue
                if self._fence(line) or self._pair_line(line, after_blank=blank):
                    continue
                self._close()
            blank = False
            self._say(line.text)
        self._close()
        return ContextAnswer("\n".join(self.prose).strip(), tuple(self.groups))

    def _say(self, text: str) -> None:
        self.prose.append(text)
        self._state(text)

    def _state(self, text: str) -> None:
        """Add to the statement; citations that follow one another at once are all of the same."""
        if self.spent and text.strip():
            self.statement, self.spent = [], False
        self.statement.append(text)

    def _header(self, line: Line) -> bool:
        """Whether a citation begins with this line, and its first pairs."""
        found = _HEADER.fullmatch(line.text)
        if found is None or (self.begun is not None and self._is_own(line.text)):
            return False
        rest = found["rest"].strip(" *_\t")
        self._open(line.start)
        self._cite(rest, line.start + len(line.text))
        return True

    def _is_own(self, text: str) -> bool:
        """Whether `source: ...` is a pair of the prompt's metadata rather than a header."""
        key, _, value = text.partition(":")
        return (self.known.key(_BULLET.sub("", key)), normal(value)) in self.known.pairs

    def _inline(self, line: Line, number: int) -> bool:
        """Whether citations begin within this line; what stands before and behind them is said."""
        at = 0
        heads = list(_INLINE.finditer(line.text))
        for i, head in enumerate(heads):
            if head.start() < at or not self._cites(head, line, number):
                continue
            self._say_part(line.text[at : head.start()].rstrip(" ("), first=at == 0)
            self._open(line.start + head.start())
            until = heads[i + 1].start() if i + 1 < len(heads) else len(line.text)
            at = self._cite_until(line, head, until)
        if at:
            self._say_part(line.text[at:], first=False)
        return at > 0

    def _cite_until(self, line: Line, head: re.Match[str], until: int) -> int:
        """Read what follows `Source:` in its line; where the citation ends there."""
        close = _closing(line.text, head) if head["open"] else None
        end = until if close is None else close
        self._cite(line.text[head.end() : end].strip(), line.start + end)
        if close is not None:
            return close + 1
        behind = self._behind()
        words = list(_WORDS.finditer(line.text, head.end(), end))
        return words[-behind].start() if behind else end

    def _behind(self) -> int:
        """How many words of the last pair are prose that goes on behind a value that the prompt has."""
        if not self.pairs:
            return 0
        key, value = self.pairs[-1]
        words, kept = value.split(), self.known.known_words(key, value)
        if kept:
            self.pairs[-1] = key, normal(" ".join(words[:kept]))
        return len(words) - kept if kept else 0

    def _say_part(self, text: str, *, first: bool) -> None:
        """Say a part of a line; a stop or comma behind a citation belongs to what stands before it."""
        if first:
            self._close()
            self._say(text)
        elif text.strip(_WRAPPING):
            self._close()
            self._state(text.strip())
            self.prose[-1] += (" " if text[0].isalnum() else "") + text.rstrip()
        else:
            self.prose[-1] += text.strip()

    def _cites(self, head: re.Match[str], line: Line, number: int) -> bool:
        """Whether a source follows `Source:`, or the line ends with it and one follows in the next."""
        if not head["open"] and not head["word"][0].isupper():
            return False
        behind = line.text[head.end() : head.end() + LONGEST].strip()
        if head["open"]:
            behind = behind[: _depth_end(behind, head["open"])]
        if not behind and number + 1 < len(self.lines):
            behind = _BULLET.sub("", self.lines[number + 1].text[:LONGEST], count=1)
        return bool(behind) and self.known.begins(behind)

    def _open(self, start: int) -> None:
        self._close()
        self.begun = start

    def _cite(self, text: str, end: int) -> None:
        self.end = end
        if text:
            self.pairs += self.known.pairs_of(text)

    def _fence(self, line: Line) -> bool:
        """Whether this is the fence that pairs stand in."""
        if not line.text.strip().startswith("```") or (self.pairs and not self.fenced):
            return False
        if self.fenced:
            self._close()
        else:
            self.fenced = True
        return True

    def _pair_line(self, line: Line, *, after_blank: bool) -> bool:
        text = _BULLET.sub("", line.text, count=1).strip()
        key, colon, value = text.partition(":")
        shaped = bool(colon and key.strip()) and (not value or value[0].isspace())
        known = bool(colon) and self.known.key(key) is not None
        if not (known if after_blank else shaped or known or not self.pairs):
            return False
        self._cite(text, line.start + len(line.text))
        return True

    def _close(self) -> None:
        if self.begun is None:
            return
        statement = "\n".join(self.statement)
        self.groups.append(CitedGroup(tuple(self.pairs), statement, self.text.span(self.begun, self.end)))
        self.begun, self.pairs, self.spent, self.fenced = None, [], True, False


def _closing(text: str, head: re.Match[str]) -> int | None:
    """Where the bracket before `Source:` is closed, if near."""
    end = _depth_end(text[head.end() : head.end() + LONGEST], head["open"])
    return None if end is None else head.end() + end


def _depth_end(text: str, opening: str) -> int | None:
    """Where the bracket that was opened before a text is closed in it."""
    depth = 1
    for found in _BRACKET.finditer(text):
        depth += (found[0] == opening) - (found[0] == _CLOSED_BY[opening])
        if not depth:
            return found.start()
    return None
