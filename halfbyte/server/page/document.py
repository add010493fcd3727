"""Puts the page's files together into one document, which a strict Content-Security-Policy fits.

Scripts and style sheets stand in files of their own and are served within the document, each allowed by its hash: no
route but `/` serves a part of the page, so that a server with keys shows nothing else to those without one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SHEET = re.compile(r'<link rel="stylesheet" href="([a-z_]+\.css)">')
SCRIPT = re.compile(r'<script src="([a-z_]+\.js)"></script>')
# What a policy has besides the hashes. Trusted Types refuse every string that is to become HTML.
POLICY = (
    "default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Document:
    """The page and the headers that go with it."""

    html: bytes
    headers: dict[str, str]


@cache
def document() -> Document:
    """Read once from the package's data."""
    folder = files(__package__)
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def within(tag: str, found: re.Match[str]) -> str:
        text = (folder / found[1]).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{text}</{tag}>"

    html = (folder / "index.html").read_text(encoding="utf-8")
    html = SHEET.sub(lambda found: within("style", found), html)
    html = SCRIPT.sub(lambda found: within("script", found), html)
    allowed = [f"{tag}-src {' '.join(found)}" for tag, found in hashes.items()]
    headers = {
        "content-security-policy": "; ".join([*POLICY, *allowed]),
        "cache-control": "no-cache",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    return Document(html.encode(), headers)
