"""Reads JSON out of a text that may hold other things, keeping the place of every value."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from halfbyte.errors import PromptError
from halfbyte.prompts.tree import Node, TreeBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.prompts.position import Text

# Possessive throughout: a token that does not match is given up after one reading.
_TOKEN = re.compile(
    r'[ \t\r\n]*+(?:(?P<mark>[{}\[\],:])|(?P<text>"(?:[^"\\]|\\.)*+")'
    r"|(?P<number>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)|(?P<word>true|false|null)\b)",
    re.DOTALL,
)
_BEGINNING = re.compile(r'\{(?=[ \t\r\n]*+["}])|\[(?=[ \t\r\n]*+\{)')
_HALF = re.compile("[\ud800-\udfff]")
_END = re.compile(r"[ \t\r\n]*+\Z")
_WORDS = {"true": True, "false": False, "null": None}


def find_json(text: Text) -> Iterator[Node | PromptError]:
    """All objects, and lists of objects, of a text in their order; an error for what begins like one and is none.

    The search goes on after the end of a value, or after the place of an error.
    """
    at = 0
    while found := _BEGINNING.search(text.text, at):
        reader = _Reader(text, found.start())
        try:
            yield reader.read()
        except PromptError as error:
            yield error
        at = max(reader.at, found.end())


class _Reader:
    def __init__(self, text: Text, at: int) -> None:
        self.text = text
        self.at = at
        self.tree = TreeBuilder(text)

    def read(self) -> Node:
        """One value; `at` is then behind it."""
        due = "value"
        while True:
            found = _TOKEN.match(self.text.text, self.at)
            if found is None:
                raise self._error(due)
            start = found.start(found.lastgroup or 0)
            due = self._mark(found["mark"], start, due) if found["mark"] else self._scalar(found, start, due)
            self.at = found.end()
            if due == "nothing":
                assert self.tree.root is not None
                return self.tree.root

    def _mark(self, mark: str, start: int, due: str) -> str:
        """Take a bracket, comma or colon; returns what is due next."""
        if mark in "{[" and due in ("value", "value or ]"):
            self.tree.begin("map" if mark == "{" else "list", start)
            return "key or }" if mark == "{" else "value or ]"
        if mark == ":" and due == "colon":
            return "value"
        if mark == "," and due == "comma or end":
            return "key" if self.tree.inside == "map" else "value"
        closes = "map" if mark == "}" else "list" if mark == "]" else "?"
        if closes == self.tree.inside and due in ("comma or end", "key or }", "value or ]"):
            self.tree.end(start + 1)
            return "comma or end" if self.tree.inside else "nothing"
        raise self._error(due, start)

    def _scalar(self, found: re.Match[str], start: int, due: str) -> str:
        is_key = due in ("key", "key or }")
        if due in ("colon", "comma or end") or (is_key and not found["text"]):
            raise self._error(due, start)
        self.tree.scalar(self._value(found, start), start, found.end())
        return "colon" if is_key else "comma or end"

    def _value(self, found: re.Match[str], start: int) -> Any:
        if found["word"]:
            return _WORDS[found["word"]]
        try:
            value = json.loads(found["text"] or found["number"], strict=False)  # line breaks in strings: models do it
        except ValueError as error:
            raise self.text.error(f"not valid JSON: {str(error).split(':')[0]}", start) from None
        if isinstance(value, str) and _HALF.search(value):
            raise self.text.error("half of a character that is written in two, \\ud800 to \\udfff", start)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.text.error("a number too large", start)
        return value

    def _error(self, due: str, at: int | None = None) -> PromptError:
        place = self.at if at is None else at
        if _END.match(self.text.text, place):
            place = len(self.text.text)
        ends = "the text ends" if place == len(self.text.text) else "not valid JSON"
        return self.text.error(f"{ends} where {due} is due", place)
