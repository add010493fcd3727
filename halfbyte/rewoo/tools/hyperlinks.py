"""HyperlinkExtractor: the links of a text, in its order."""

from __future__ import annotations

import re

from halfbyte.rewoo.tool import tool

LINK = re.compile(r"""https?://[^\s<>"'`{}|\\^\x00-\x1f]+""", re.IGNORECASE)
AFTER_SENTENCE = ".,;:!?*_~"
PAIRS = {")": "(", "]": "["}


@tool(
    name="HyperlinkExtractor",
    description="Extract links from plain text and produces a plain text, newline delimited response of links.",
)
async def hyperlink_extractor(text: str) -> str:
    """Links one a line, without those that were there before."""
    return "\n".join(find_links(text))


def find_links(text: str) -> list[str]:
    """http(s) links, each once, in the order of the text; the punctuation of the sentence round them is left out."""
    return list(dict.fromkeys(link for match in LINK.finditer(text) if (link := _trimmed(match[0]))))


def _trimmed(link: str) -> str:
    """Without punctuation behind it; a closing bracket stays if the link opens it, as Wikipedia's do."""
    link = _up_to_unopened(link)
    while link and (link[-1] in AFTER_SENTENCE or link[-1] in "(["):
        link = link.rstrip(AFTER_SENTENCE + "([")
    return link if link.partition("://")[2] else ""


def _up_to_unopened(link: str) -> str:
    """Up to the first closing bracket that the link itself has not opened, as in [text](link)."""
    opened = {"(": 0, "[": 0}
    for i, char in enumerate(link):
        if char in opened:
            opened[char] += 1
        elif char in PAIRS:
            if opened[PAIRS[char]] == 0:
                return link[:i]
            opened[PAIRS[char]] -= 1
    return link
