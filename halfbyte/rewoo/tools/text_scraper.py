"""TextScraper: the text of pages on the public internet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from halfbyte.errors import ToolError
from halfbyte.rewoo.fetch import FetchLimits, fetch
from halfbyte.rewoo.tool import Evidence, tool
from halfbyte.rewoo.tools.hyperlinks import find_links
from halfbyte.rewoo.tools.page_text import PDF_TYPE, page_text

if TYPE_CHECKING:
    from collections.abc import Collection

    from halfbyte.rewoo.guard import Resolver
    from halfbyte.rewoo.tool import Tool

DESCRIPTION = (
    "Load one or more websites from the input string containing newline delimited links, where input is one or more "
    "links, and produces plain text output containing the content of the links."
)


def text_scraper(
    *,
    allow: Collection[str] = (),
    limits: FetchLimits | None = None,
    pages: int = 5,
    page_chars: int = 20_000,
    pdf: bool = False,
    resolver: Resolver | None = None,
) -> Tool:
    """The scraper, guarded. allow: "host:port" pairs that may be fetched although they are not public.

    pages: the most links that one call follows, in their order, at the same time. page_chars: of each page's text, the
    most that is kept. pdf: also read PDF. A page that cannot be had is named, with the reason, in the place of its
    text; the tool fails if there is none that can.
    """
    limits = limits or FetchLimits()
    if pdf:
        limits = replace(limits, content_types=(*limits.content_types, PDF_TYPE))

    async def read(url: str) -> tuple[str, ToolError | None]:
        try:
            page = await fetch(url, limits=limits, allow=allow, resolver=resolver)
            text = (await asyncio.to_thread(page_text, page)).strip()
        except ToolError as e:
            return f"{url}\n[not read: {e}]", e
        cut = f"{text[:page_chars]} [cut off]" if len(text) > page_chars else text
        return f"{url}\n{cut}", None

    @tool(name="TextScraper", description=DESCRIPTION, timeout=limits.seconds + 10, retries=1, gives_pages=True)
    async def scrape(links: str) -> Evidence:
        urls = find_links(links) or [line.strip() for line in links.splitlines() if line.strip()]
        if not urls:
            raise ToolError("the input holds no link")
        chosen = urls[:pages]
        read_pages = await asyncio.gather(*(read(url) for url in chosen))
        errors = [error for _, error in read_pages if error]
        if len(errors) == len(chosen):
            raise ToolError("; ".join(map(str, errors)), retryable=any(e.retryable for e in errors))
        sources = tuple(url for url, (_, error) in zip(chosen, read_pages, strict=True) if error is None)
        return Evidence("\n\n".join(text for text, _ in read_pages), sources=sources)

    return scrape
