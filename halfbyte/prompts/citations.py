"""Answers to closed-context prompts: which sources they cite, and whether they may.

Within a group of cited pairs a new citation begins with each pair that no block has together with those before it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from halfbyte.prompts.citation_reader import CitedGroup, ContextAnswer, Pair, normal, parse_answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.prompts.context import ContextPrompt
    from halfbyte.prompts.position import Span

_WORD = re.compile(r"\w+")
_COMMON = frozenset(
    _WORD.findall(
        "a an and are as at be been but by for from had has have he her his i in is it its no not of on or she that "
        "the their there they this to was we were will with would yes you your"
    )
)

Kind = Literal["unasked", "missing", "unknown", "mixed", "unused"]


@dataclass(frozen=True, slots=True)
class Citation:
    """One cited source: the blocks (by index) that have all its known pairs, and what no block has."""

    pairs: tuple[Pair, ...]
    blocks: tuple[int, ...]
    unknown: tuple[Pair, ...]
    complete: bool  # whether it names all metadata of a block
    used: bool  # whether the statement has a word in common with one of the blocks, beyond common words
    span: Span


@dataclass(frozen=True, slots=True)
class CitationProblem:
    """unasked: the prompt wants no sources. missing: it does, and none is cited. unknown: a source that no block has.
    mixed: pairs of several blocks run together as one source. unused: nothing that is said comes from that block."""

    kind: Kind
    message: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class CitationReport:
    """What a program needs to accept an answer or to ask again."""

    citations: tuple[Citation, ...]
    problems: tuple[CitationProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def cited(self) -> frozenset[int]:
        """Indices of all blocks that are cited."""
        return frozenset(i for citation in self.citations for i in citation.blocks)


def check_answer(prompt: ContextPrompt, answer: str | ContextAnswer) -> CitationReport:
    """Hold an answer's citations against its prompt."""
    parsed = parse_answer(prompt, answer) if isinstance(answer, str) else answer
    checker = _Checker(prompt)
    for group in parsed.groups:
        checker.group(group)
    if prompt.asks_source and not parsed.groups:
        checker.problems.append(CitationProblem("missing", "sources were asked for and none is cited", 1, 1))
    return CitationReport(tuple(checker.citations), tuple(checker.problems))


class _Checker:
    def __init__(self, prompt: ContextPrompt) -> None:
        self.prompt = prompt
        self.citations: list[Citation] = []
        self.problems: list[CitationProblem] = []
        self.index: dict[Pair, set[int]] = defaultdict(set)
        for i, block in enumerate(prompt.blocks):
            for key, value in block.metadata:
                self.index[key, normal(value)].add(i)
                self.index[None, normal(value)].add(i)
        self.states: list[set[int]] = [set()]  # the first: nothing is cited yet
        self.steps: dict[tuple[int, Pair], int] = {}
        self.facts: dict[int, tuple[tuple[int, ...], set[str], int]] = {}

    def group(self, group: CitedGroup) -> None:
        """Check what stands under one header."""
        if not self.prompt.asks_source:
            self._problem("unasked", "a source is cited and none was asked for", group.span)
        before = len(self.citations)
        said = _words(group.statement)
        for pairs in self._split(group.pairs):
            self._citation(pairs, said, group.span)
        new = self.citations[before:]
        if not new:
            self._problem("unknown", "a citation without a source", group.span)
        if len([c for c in new if c.blocks]) > 1 and not all(c.complete for c in new if c.blocks):
            self._problem("mixed", "pairs of several blocks are cited as one source", group.span)

    def _split(self, pairs: Iterable[Pair]) -> list[list[Pair]]:
        """Pairs by the source that they belong to; one that is in no block stays with its neighbours."""
        sources: list[list[Pair]] = []
        state = 0
        seen: set[Pair] = set()
        for pair in pairs:
            have = self._blocks(pair)
            both = self._next(state, pair)
            if not sources or (have and (not self.states[both] or pair in seen)):
                sources.append([])
                seen, state = set(), self._next(0, pair)
            else:
                state = both
            sources[-1].append(pair)
            seen.add(pair)
        return sources

    def _next(self, state: int, pair: Pair) -> int:
        """The state in which `pair` is cited too. A state is a set of blocks; each is computed once."""
        have = self._blocks(pair)
        if not have:
            return state
        key = state, (pair[0], normal(pair[1]))
        if key not in self.steps:
            self.steps[key] = len(self.states)
            self.states.append(self.states[state] & have if state else have)
        return self.steps[key]

    def _citation(self, pairs: list[Pair], said: set[str], span: Span) -> None:
        state = 0
        for pair in pairs:
            state = self._next(state, pair)
        blocks, words, shortest = self._cited(state)
        unknown = tuple(pair for pair in pairs if not self._blocks(pair))
        complete = bool(blocks) and shortest <= len({(key, normal(value)) for key, value in pairs})
        used = not said.isdisjoint(words)
        self.citations.append(Citation(tuple(pairs), blocks, unknown, complete, used, span))
        for key, value in unknown:
            self._problem("unknown", f"no block has {f'{key}: {value}' if key else value!r}", span)
        if blocks and not used:
            self._problem("unused", f"nothing in the statement comes from block {blocks[0]}", span)

    def _cited(self, state: int) -> tuple[tuple[int, ...], set[str], int]:
        """The blocks of a state, all their words, and the fewest pairs that one of them has."""
        if state not in self.facts:
            blocks = tuple(sorted(self.states[state]))
            words: set[str] = set().union(*(_words(self.prompt.blocks[i].text) for i in blocks))
            self.facts[state] = blocks, words, min((len(self.prompt.blocks[i].metadata) for i in blocks), default=0)
        return self.facts[state]

    def _blocks(self, pair: Pair) -> set[int]:
        return self.index.get((pair[0], normal(pair[1])), set())

    def _problem(self, kind: Kind, message: str, span: Span) -> None:
        self.problems.append(CitationProblem(kind, message, span.line, span.column))


def _words(text: str) -> set[str]:
    return {word for found in _WORD.findall(text) if (word := found.casefold()) not in _COMMON}
