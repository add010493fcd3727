"""PLAINFORMAT: a coding prompt that asks for nothing but code, and the code in any answer.

The plain form of an answer, by rule:

1. With fences: the blocks in the language of the longest one (a block without a language counts as any), in their
   order, a blank line between them. A fence that is never closed runs to the end; but if it is the only one, without a
   language and with code before it, it is taken for the end of that code, whose own fence was left out.
2. Without: the text less those paragraphs at its beginning and end that are prose. A paragraph is prose if every line
   begins with a letter, holds four words or more (or ends with a colon), ends like a sentence, and has none of the
   characters that code lives on (code in single backticks aside).
3. An answer that is nothing but prose stays as it is, and `found` is False.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from halfbyte.errors import PromptError
from halfbyte.prompts.fences import Fence, find_fences
from halfbyte.prompts.position import Span, Text

WORD = "PLAINFORMAT"
_CODE = re.compile(r"[{}\[\];=<>\\|@#$]|\w\(|^(?:import|from|def|class|return|fn|let|var|const|while)\b")
_QUOTED = re.compile(r"`[^`]*`")  # code within a sentence


@dataclass(frozen=True, slots=True)
class PlainCode:
    """Code out of an answer."""

    code: str
    language: str  # as the fence names it; "" where nothing does
    found: bool  # False: the answer is prose, and `code` is all of it
    spans: tuple[Span, ...]  # where the code stands in the answer


def ask_plain(prompt: str) -> str:
    """The prompt, asking for plain code: one space and the word at its end, once. Raises PromptError if it is empty."""
    text = prompt.rstrip()
    if not text:
        raise PromptError("a prompt for plain code needs words that say which")
    return text if text.endswith(f" {WORD}") else f"{text} {WORD}"


def plain_code(answer: str) -> PlainCode:
    """Reduce an answer to its code; see the rule above. Raises nothing for a string."""
    text = Text(answer)
    found = find_fences(text)
    if len(found) == 1 and not found[0].closed and not found[0].language:
        before = _without_fences(Text(answer[: text.lines()[found[0].first_line].start]))
        if before.found:
            return before
    fences = [fence for fence in found if fence.code.strip()]
    return _from_fences(fences) if fences else _without_fences(text)


def _from_fences(fences: list[Fence]) -> PlainCode:
    main = max(fences, key=lambda fence: len(fence.code)).language
    chosen = [fence for fence in fences if fence.language in (main, "")] if main else fences
    code = "\n\n".join(fence.code.strip("\n") for fence in chosen)
    return PlainCode(code, main, True, tuple(fence.span for fence in chosen))


def _without_fences(text: Text) -> PlainCode:
    lines = text.lines()
    paragraphs = _paragraphs([line.text for line in lines])
    code = [not all(_is_prose(lines[i].text) for i in range(a, b)) for a, b in paragraphs]
    if True not in code:
        whole = text.text.strip()
        return PlainCode(whole, "", False, (text.span(0, len(text.text)),))
    first = paragraphs[code.index(True)][0]
    end = paragraphs[len(code) - 1 - code[::-1].index(True)][1]
    body = [line.text for line in lines[first:end]]
    stop = lines[end - 1].start + len(lines[end - 1].text)
    return PlainCode("\n".join(body), "", True, (text.span(lines[first].start, stop),))


def _paragraphs(lines: list[str]) -> list[tuple[int, int]]:
    """Runs of lines that are not blank, as (first, end)."""
    found: list[tuple[int, int]] = []
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        if found and found[-1][1] == i:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found


def _is_prose(line: str) -> bool:
    body = line.strip()
    if line[:1].isspace() or not body[:1].isalpha() or _CODE.search(_QUOTED.sub("", body)):
        return False
    return body[-1] in ".:!?,…" and (len(body.split()) >= 4 or body[-1] in ":!")
