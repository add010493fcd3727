"""DuckDuckGo: a web search, by whichever back-end is at hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halfbyte.errors import IntegrationError, ToolError
from halfbyte.rewoo.tool import Evidence, tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from halfbyte.rewoo.tool import Tool

    Backend = Callable[[str, int], Awaitable[list["SearchResult"]]]  # query, how many

DESCRIPTION = (
    "Tool that enables the user to search for information using the DuckDuckGo search engine. This tool is helpful in "
    "locating a suitable list of sites that may contain the answer to the user's query. It does not directly answer "
    "the question but finds a list of sites that might have the answer."
)
SECONDS = 10  # that one request of the search library may take
RATE_LIMIT_WAIT = 5.0  # seconds before trying again


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One hit."""

    url: str
    title: str = ""
    snippet: str = ""


def duckduckgo(backend: Backend | None = None, *, results: int = 5) -> Tool:
    """The search tool. backend: an async function of query and count; by default the ddgs package."""
    search = backend or ddgs_backend

    @tool(name="DuckDuckGo", description=DESCRIPTION, timeout=2.0 * SECONDS, retries=2, concurrency=2, gives_pages=True)
    async def duckduckgo_search(query: str) -> Evidence:
        found = [r for r in await search(query.strip(), results) if r.url.startswith(("http://", "https://"))]
        if not found:
            raise ToolError(f"no results for {query.strip()!r:.200}")
        text = "\n\n".join("\n".join(filter(None, (_line(r.title), r.url, _line(r.snippet)))) for r in found[:results])
        return Evidence(text, sources=tuple(r.url for r in found[:results]))

    return duckduckgo_search


async def ddgs_backend(query: str, count: int) -> list[SearchResult]:
    """Search with the ddgs package, in a thread, which ends with its own time limit."""
    return await asyncio.to_thread(_ddgs, query, count)


def _ddgs(query: str, count: int) -> list[SearchResult]:
    try:
        from ddgs import DDGS  # noqa: PLC0415  an extra
        from ddgs.exceptions import DDGSException, RatelimitException, TimeoutException  # noqa: PLC0415
    except ImportError:
        raise IntegrationError("searching needs ddgs: pip install 'halfbyte[rewoo]'") from None
    try:
        hits = DDGS(timeout=SECONDS).text(query, max_results=count, backend="duckduckgo")
    except RatelimitException as e:
        raise ToolError(f"the search engine limits our rate: {e}", retryable=True, wait=RATE_LIMIT_WAIT) from e
    except TimeoutException as e:
        raise ToolError(f"the search engine did not answer: {e}", retryable=True) from e
    except DDGSException as e:
        # ddgs 9 says "No results found" whatever the engine answered: 202 and 429, which limit our rate, look the same.
        raise ToolError(f"search failed, or our rate is limited: {e}", retryable=True, wait=RATE_LIMIT_WAIT) from e
    return [SearchResult(str(h.get("href", "")), str(h.get("title", "")), str(h.get("body", ""))) for h in hits]


def _line(text: str) -> str:
    return " ".join(text.split())
