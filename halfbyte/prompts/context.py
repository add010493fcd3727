"""Closed-context prompts: blocks of text with metadata, and instructions that are to be answered from them alone.

    BEGININPUT
    BEGINCONTEXT
    date: 2021-01-01
    url: https://web.site/123
    ENDCONTEXT
    the text
    ENDINPUT
    BEGININSTRUCTION
    What color are blueberries? Source?
    ENDINSTRUCTION

Text from outside cannot leave its block: a delimiter's word that occurs in it is written with a backslash inside,
`END\\INPUT`, which no reader takes for the delimiter, and each such backslash already there is doubled by one more.
Reading takes one backslash away, so that every text comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from halfbyte.errors import PromptError
from halfbyte.prompts.citation_reader import ContextAnswer, parse_answer
from halfbyte.prompts.citations import CitationReport, check_answer
from halfbyte.prompts.position import Line, Span, Text

_NAMES = "INPUT|CONTEXT|INSTRUCTION"
_DELIMITERS = frozenset(f"{side}{name}" for side in ("BEGIN", "END") for name in _NAMES.split("|"))
_WRITTEN = re.compile(rf"(BEGIN|END)(\\*+)({_NAMES})")  # possessive: a long run of backslashes is read once
_ASKS = re.compile(r"\b(?:sources?|references?|cit(?:e|es|ed|ing|ations?))\b", re.IGNORECASE)

Metadata = tuple[tuple[str, str], ...]


def escape(text: str) -> str:
    """A text in which no delimiter's word occurs."""
    return _WRITTEN.sub(r"\1\2\\\3", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _WRITTEN.sub(lambda m: m[1] + m[2][1:] + m[3], text)


@dataclass(frozen=True, slots=True)
class Block:
    """One input: a text, and pairs that say where it is from. Keys may repeat; a value may hold colons."""

    text: str
    metadata: Metadata = ()  # may be given as a mapping, or as any pairs
    span: Span | None = field(default=None, compare=False)  # where it was read

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PromptError(f"a block's text is a {type(self.text).__name__}; it must be a string")
        pairs = self.metadata.items() if isinstance(self.metadata, Mapping) else self.metadata
        try:
            object.__setattr__(self, "metadata", tuple(_pair(key, value) for key, value in pairs))
        except (TypeError, ValueError):
            raise PromptError("a block's metadata must be a mapping, or pairs of key and value") from None


def _pair(key: object, value: object) -> tuple[str, str]:
    key, value = str(key).strip(), str(value).strip()
    if not key or ":" in key or "\n" in key or "\r" in key:
        raise PromptError(f"metadata key {key!r} is empty or holds a colon or a line break")
    if "\n" in value or "\r" in value:
        raise PromptError(f"metadata {key!r} has a value of several lines: {value!r:.80}")
    return key, value


@dataclass(frozen=True, slots=True)
class ContextPrompt:
    """A closed-context prompt. `asks_source`: whether sources are to be cited; None reads it from the instruction."""

    blocks: tuple[Block, ...]
    instruction: str
    asks_source: bool | None = None

    def __post_init__(self) -> None:
        blocks = (self.blocks,) if isinstance(self.blocks, Block) else tuple(self.blocks)
        if not blocks or not all(isinstance(block, Block) for block in blocks):
            raise PromptError("a closed-context prompt needs one Block or more")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise PromptError("a closed-context prompt needs an instruction")
        object.__setattr__(self, "blocks", blocks)
        if self.asks_source is None:
            object.__setattr__(self, "asks_source", _ASKS.search(self.instruction) is not None)

    def render(self) -> str:
        """The prompt, without a final newline; what goes between USER: and ASSISTANT:."""
        lines: list[str] = []
        for block in self.blocks:
            pairs = (escape(f"{key}: {value}" if value else f"{key}:") for key, value in block.metadata)
            lines += ["BEGININPUT", "BEGINCONTEXT", *pairs, "ENDCONTEXT", escape(block.text), "ENDINPUT"]
        return "\n".join([*lines, "BEGININSTRUCTION", escape(self.instruction), "ENDINSTRUCTION"])

    @classmethod
    def parse(cls, text: str) -> ContextPrompt:
        """Read a prompt. Metadata may be empty or left out, and so may the final ENDINSTRUCTION.

        Raises PromptError at the place where something else was due, as where an end tag is missing.
        """
        return _Reader(text).prompt()

    def parse_answer(self, answer: str) -> ContextAnswer:
        """Take an answer apart into what it says and what it cites."""
        return parse_answer(self, answer)

    def check(self, answer: str | ContextAnswer) -> CitationReport:
        """Hold an answer's citations against this prompt."""
        return check_answer(self, answer)

    def cite(self, blocks: Iterable[int]) -> str:
        """The card's citation of these blocks, by index: what a good answer ends with."""
        sources = [[f"{key}: {value}" for key, value in self.blocks[i].metadata] for i in blocks]
        return "\n\n".join("\n".join(["Source:", *pairs]) for pairs in sources)


class _Reader:
    """Goes through the lines once."""

    def __init__(self, text: str) -> None:
        self.text = Text(text)
        self.lines: list[Line] = self.text.lines()
        self.at = 0
        self.crlf = "\r\n" in text[:20].lstrip()  # after the first delimiter: the file's own line ends, not a text's

    def prompt(self) -> ContextPrompt:
        blocks = []
        while (tag := self._next_tag("BEGININPUT or BEGININSTRUCTION")) == "BEGININPUT":
            blocks.append(self._block())
        if tag != "BEGININSTRUCTION" or not blocks:
            due = "BEGININPUT" if not blocks else "BEGININPUT or BEGININSTRUCTION"
            raise self._error(f"{tag} where {due} is due", self.at - 1)
        begun = self.at - 1
        instruction = self._until("ENDINSTRUCTION", begun, may_end=True)
        if not instruction.strip():
            raise self._error("the instruction is empty", begun)
        rest = next((i for i in range(self.at, len(self.lines)) if self.lines[i].text.strip()), None)
        if rest is not None:
            raise self._error("there is text after ENDINSTRUCTION", rest)
        return ContextPrompt(tuple(blocks), instruction)

    def _block(self) -> Block:
        begun = self.at - 1
        pairs: list[tuple[str, str]] = []
        if self.at < len(self.lines) and self._tag(self.at) == "BEGINCONTEXT":
            self.at += 1
            pairs = self._pairs()
        text = self._until("ENDINPUT", begun)
        last = self.lines[self.at - 1]
        return Block(text, tuple(pairs), self.text.span(self.lines[begun].start, last.start + len(last.text)))

    def _pairs(self) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        begun = self.at - 1
        while self.at < len(self.lines):
            tag, line = self._tag(self.at), self.lines[self.at].text
            self.at += 1
            if tag == "ENDCONTEXT":
                return pairs
            key, colon, value = line.partition(":")
            if tag or (line.strip() and not (colon and key.strip())):
                where = f"after BEGINCONTEXT in line {begun + 1}"
                raise self._error(f"neither `key: value` nor ENDCONTEXT, which is due {where}", self.at - 1)
            if colon:
                pairs.append((unescape(key.strip()), unescape(value.strip())))
        raise self._error(f"ENDCONTEXT is missing for BEGINCONTEXT in line {begun + 1}")

    def _until(self, end: str, begun: int, *, may_end: bool = False) -> str:
        """The text up to a delimiter."""
        first = self.at
        while self.at < len(self.lines):
            tag = self._tag(self.at)
            if tag:
                if tag != end:
                    name = self._tag(begun)
                    raise self._error(f"{tag} where {end} is due for {name} in line {begun + 1}", self.at)
                self.at += 1
                return self._joined(first, self.at - 1)
            self.at += 1
        if may_end:
            return self._joined(first, self.at)
        raise self._error(f"{end} is missing for {self._tag(begun)} in line {begun + 1}")

    def _joined(self, first: int, end: int) -> str:
        if first == end:
            return ""
        stop = self.lines[end].start - 1 if end < len(self.lines) else len(self.text.text.removesuffix("\n"))
        raw = self.text.text[self.lines[first].start : stop]
        return unescape(raw.removesuffix("\r") if self.crlf else raw)

    def _next_tag(self, due: str) -> str:
        while self.at < len(self.lines):
            tag, line = self._tag(self.at), self.lines[self.at].text
            self.at += 1
            if tag:
                return tag
            if line.strip():
                raise self._error(f"text outside of a block, where {due} is due", self.at - 1)
        raise self._error(f"the text ends where {due} is due")

    def _tag(self, index: int) -> str:
        word = self.lines[index].text.strip()
        return word if word in _DELIMITERS else ""

    def _error(self, message: str, index: int | None = None) -> PromptError:
        offset = len(self.text.text) if index is None else self.lines[index].start
        return self.text.error(message, offset)
