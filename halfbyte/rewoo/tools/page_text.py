"""The text of a page, of whatever kind."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from halfbyte.errors import IntegrationError, ToolError

if TYPE_CHECKING:
    from halfbyte.rewoo.fetch import Page

PDF_TYPE = "application/pdf"
MOST_PDF_PAGES = 50
UNSEEN = {  # elements, with the pattern of their end
    name: re.compile(f"</{name}\\b", re.IGNORECASE)
    for name in ("script", "style", "template", "noscript", "svg", "title")
}
BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol"}
_TAG = re.compile(r"([/!?]?)([a-zA-Z]?[a-zA-Z0-9]{0,20})(?<=[a-zA-Z0-9!?/])")


def page_text(page: Page) -> str:
    """The readable text of a page; takes processor time, so call it in a thread."""
    if page.content_type == PDF_TYPE:
        return _pdf_text(page)
    if "html" in page.content_type:
        return _main_text(page) or _visible_text(page.text)
    return page.text


def _main_text(page: Page) -> str:
    """The article, without menus and the like, if trafilatura is there and finds one."""
    try:
        import trafilatura  # noqa: PLC0415  an extra
    except ImportError:
        return ""
    try:
        return trafilatura.extract(page.text, url=page.url, include_comments=False) or ""
    except Exception:  # a parser of strangers' pages may fail with anything; the plain way is left
        return ""


def _visible_text(page: str) -> str:
    """All text outside of tags. Reads on only forward: html.parser takes quadratic time on what is never closed."""
    pieces, at = [], 0
    while (opened := page.find("<", at)) >= 0:
        pieces.append(page[at:opened])
        at = opened + 1
        if page.startswith("!--", at):
            end = page.find("-->", at + 3)
            at = end + 3 if end >= 0 else len(page)
        elif tag := _TAG.match(page, at):
            end = page.find(">", tag.end())
            at = end + 1 if end >= 0 else len(page)
            name = tag[2].lower()
            if name in UNSEEN and not tag[1]:
                closed = UNSEEN[name].search(page, at)
                at = closed.start() if closed else len(page)
            elif name in BLOCKS:
                pieces.append("\n")
        else:
            pieces.append("<")
    text = html.unescape("".join([*pieces, page[at:]]))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(" ".join(line.split()) for line in text.split("\n"))).strip()


def _pdf_text(page: Page) -> str:
    try:
        from pypdf import PdfReader  # noqa: PLC0415  an extra
    except ImportError:
        raise IntegrationError("reading PDF needs pypdf: pip install 'halfbyte[rewoo]'") from None
    try:
        pages = PdfReader(io.BytesIO(page.body)).pages
        return "\n\n".join(pages[i].extract_text() for i in range(min(len(pages), MOST_PDF_PAGES)))
    except Exception as e:  # damaged files make it fail in many ways
        raise ToolError(f"{page.url:.200}: cannot be read as PDF ({type(e).__name__}: {e})") from e
