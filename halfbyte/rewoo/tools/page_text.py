"""The text of a page, of whatever kind."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from halfbyte.errors import IntegrationError, ToolError

if TYPE_CHECKING:
    from halfbyte.rewoo.fetch import Page

PDF_TYPE = "application/pdf"
MOST_PDF_PAGES = 50
UNSEEN = {"script", "style", "template", "noscript", "svg", "head"}
BLOCKS = {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol"}


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


def _visible_text(html: str) -> str:
    reader = _Visible()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif tag in BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif tag in BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.pieces.append(data)


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
