"""The tools that come with halfbyte."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import types
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rewoo_pages import serving

from halfbyte.errors import ToolError
from halfbyte.rewoo import Evidence, Executor, Limits, tool, tools
from halfbyte.rewoo.completion import Completion
from halfbyte.rewoo.fetch import Page
from halfbyte.rewoo.tool import tool_table
from halfbyte.rewoo.tools.calculator import evaluate
from halfbyte.rewoo.tools.page_text import page_text


def call(made, argument):
    return asyncio.run(made.call(argument))


# -- making tools


def test_a_tool_is_a_typed_function_with_a_docstring():
    @tool
    async def words(text: str) -> int:
        """Count the words
        of a text."""
        return len(text.split())

    assert (words.name, words.description) == ("words", "Count the words of a text.")
    assert call(words, "a b c").text == "3"
    assert asyncio.run(words("a b")) == 2


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, " 7 ", 7),
        (float, "1e3", 1000.0),
        (bool, "Yes", True),
        (list[str], "a\n\n b ", ["a", "b"]),
        (dict, '{"a": [1]}', {"a": [1]}),
    ],
)
def test_arguments_have_types(kind, text, value):
    got = []

    async def take(argument):
        got.append(argument)
        return "ok"

    take.__annotations__["argument"] = kind
    made = tool(take)
    assert made.problem_with(text) is None
    call(made, text)
    assert got == [value]
    if kind != list[str]:
        assert "must be" in made.problem_with("[nonsense")
        with pytest.raises(ToolError, match="must be"):
            call(made, "[nonsense")


def test_results_become_text():
    for result, text in (("x", "x"), (["a", "b"], "a\nb"), ({"k": 1}, '{"k": 1}'), (2.5, "2.5"), (None, "null")):
        made = tools.python_function(lambda _, result=result: result)
        assert call(made, "").text == text
    assert call(tools.python_function(lambda _: Evidence("e", 1)), "") == Evidence("e", 1)


def test_tables_of_tools():
    assert list(tool_table({"A": len, "B": tools.calculator})) == ["A", "B"]
    with pytest.raises(ToolError, match="two tools"):
        tool_table([tools.calculator, tools.calculator])
    with pytest.raises(ToolError, match="not a tool"):
        tool_table(["Calculator"])


# -- HyperlinkExtractor


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://web.site/123", ["https://web.site/123"]),
        ("https://web.site/123.", ["https://web.site/123"]),
        ("(https://web.site/123), http://b.c!", ["https://web.site/123", "http://b.c"]),
        (
            "[a](https://b.c/d) <https://e.f> \"https://g.h\" 'https://i.j'",
            ["https://b.c/d", "https://e.f", "https://g.h", "https://i.j"],
        ),
        ("https://en.wikipedia.org/wiki/Set_(mathematics)", ["https://en.wikipedia.org/wiki/Set_(mathematics)"]),
        ("(see https://en.wikipedia.org/wiki/Set_(mathematics)).", ["https://en.wikipedia.org/wiki/Set_(mathematics)"]),
        ("b https://b.c a https://a.c b https://b.c", ["https://b.c", "https://a.c"]),
        ("HTTPS://Web.Site/A?b=c&d=e#f;", ["HTTPS://Web.Site/A?b=c&d=e#f"]),
        ("**https://a.b/c**, https://a.b/c_d_", ["https://a.b/c", "https://a.b/c_d"]),
        ("http:// https://. ftp://x file:///y", []),
        ("", []),
    ],
)
def test_links(text, links):
    assert tools.find_links(text) == links
    assert call(tools.hyperlink_extractor, text).text == "\n".join(links)


def test_links_of_a_megabyte():
    for text in (
        "https://a.b/" * 90_000,
        "https://a.b/c " * 70_000,
        "https://" + "(" * 1_000_000,
        "https://" + ")." * 500_000,
    ):
        start = time.process_time()
        tools.find_links(text)
        assert time.process_time() - start < 3


# -- Calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(3 + 4) * 2 ** 5", "224"), ("17/100*2340", "397.8"), ("2^10", "1024"), ("1,234,567 + 1", "1234568"), ("sqrt(2)*sqrt(2) - 2", None),
        ("-(-3)", "3"), ("10 // 3 + 10 % 3", "4"), ("max(1, min(5, 3))", "3"), ("6 × 7 =", "42"), ("round(pi, 2)", "3.14"), ("4/2", "2"),
        ("round(5, -999999999)", "0"), ("1e3", "1000"), ("17% of 2,340", "397.8"), ("200 * 15 %", "30"), ("(10%) + 1", "1.1"), ("17 % 5", "2"),
    ],
)  # fmt: skip
def test_calculations(expression, value):
    got = call(tools.calculator, expression).text
    assert value is None or got == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "x", "1 +", "1/0", "9**9**9", "10**101", "2**(10**9)", "1e308*10", "(-8)**0.5", "__import__('os').system('id')",
        "[].__class__", "lambda: 1", "'a'*9", "True", "1 if 1 else 2", "sqrt(-1)", "sqrt()", "open('x')", "(" * 400, "1" * 600,
        "max(1, key=2)", "9" * 400, "f'{1}'", "a.b", "1;2", "\x00", "factorial(9)", "nan", "1e999",
    ],
)  # fmt: skip
def test_what_is_not_calculated(expression):
    with pytest.raises(ToolError):
        evaluate(expression)


def test_words_beside_the_numbers():
    with pytest.raises(ToolError, match="'3 apples' cannot be calculated: only numbers, "):
        evaluate("3 apples")


@settings(max_examples=200, deadline=1000)
@given(st.text("0123456789+-*/%^(). ,esqrtmaxpilogrundbc", max_size=60))
def test_any_expression_has_a_value_or_is_refused(expression):
    with contextlib.suppress(ToolError):
        assert abs(evaluate(expression)) <= 10**100


# -- DuckDuckGo


def test_search_results_have_links():
    async def backend(query, count):
        assert (query, count) == ("cats", 2)
        return [
            tools.SearchResult("https://a.b/1", "A  cat", "It is\na cat."),
            tools.SearchResult("", "nowhere"),
            tools.SearchResult("javascript:x", "bad"),
            tools.SearchResult("https://a.b/2"),
        ]

    found = call(tools.duckduckgo(backend, results=2), " cats ")
    assert found.text == "A cat\nhttps://a.b/1\nIt is a cat.\n\nhttps://a.b/2"
    assert found.sources == ("https://a.b/1", "https://a.b/2")


def test_no_results_are_a_failure():
    async def backend(query, count):
        return []

    with pytest.raises(ToolError, match="no results"):
        call(tools.duckduckgo(backend), "x")


def fake_ddgs(monkeypatch, text):
    class Error(Exception):
        pass

    names = ("RatelimitException", "TimeoutException")
    errors = types.SimpleNamespace(DDGSException=Error, **{name: type(name, (Error,), {}) for name in names})
    engine = type("DDGS", (), {"__init__": lambda self, timeout: None, "text": lambda self, query, **_: text(errors)})
    monkeypatch.setitem(sys.modules, "ddgs", types.SimpleNamespace(DDGS=engine))
    monkeypatch.setitem(sys.modules, "ddgs.exceptions", errors)


def test_the_rate_limit_is_waited_out(monkeypatch):
    calls = []

    def text(errors):
        calls.append(1)
        if len(calls) < 3:
            raise errors.RatelimitException("202")
        return [{"href": "https://a.b", "title": "t", "body": "s"}]

    fake_ddgs(monkeypatch, text)
    limits = Limits(first_delay=0.001, longest_delay=0.01)
    result = asyncio.run(Executor([tools.duckduckgo()], limits=limits).run(":evidence0: = DuckDuckGo[x]"))
    assert result.answer == "t\nhttps://a.b\ns"
    assert result.sources == ("https://a.b",)
    assert [a.error is None for a in result.trace.steps[0].attempts] == [False, False, True]


class RateLimited(BaseHTTPRequestHandler):
    """DuckDuckGo's HTML page as ddgs reads it; the first two requests meet the rate limit."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        status = (202, 429, 200)[min(len(self.server.asked), 3) - 1]
        hit = '<div class="result__body"><h2>A bee</h2><a href="https://a.b/c">it hums</a></div>'
        body = f"<html><body>{hit if status == 200 else 'anomaly'}</body></html>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_the_real_ddgs_against_a_rate_limit(monkeypatch):
    engine = pytest.importorskip("ddgs.engines.duckduckgo").Duckduckgo
    limits = Limits(first_delay=0.001, longest_delay=0.01)
    with serving(handler=RateLimited) as server:
        monkeypatch.setattr(engine, "search_url", f"http://{server.where}/html/")
        result = asyncio.run(Executor([tools.duckduckgo()], limits=limits).run(":evidence0: = DuckDuckGo[bee]"))
        assert len(server.asked) == 3
    assert result.sources == ("https://a.b/c",)
    assert result.trace.steps[0].attempts[0].error.startswith("search failed, or our rate is limited")


def test_other_failures_of_the_search(monkeypatch):
    def fail(kind):
        def text(errors):
            raise getattr(errors, kind)("why")

        return text

    for kind, retryable in (("RatelimitException", True), ("TimeoutException", True), ("DDGSException", True)):
        fake_ddgs(monkeypatch, fail(kind))
        with pytest.raises(ToolError, match="why") as e:
            call(tools.duckduckgo(), "x")
        assert e.value.retryable is retryable


# -- TextScraper


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def test_pages_in_the_order_of_the_links(server):
    pytest.importorskip("httpx")
    scraper = tools.text_scraper(allow=[server.where])
    base = f"http://{server.where}"
    found = call(scraper, f"{base}/page\n{base}/image\n{base}/plain")
    first, second, third = found.text.split("\n\nhttp")
    assert first.startswith(f"{base}/page\n")
    assert "Louise Gluck won the prize, sentence 3." in first
    assert "hidden" not in first
    assert "not read: " in second
    assert third.endswith("Blåbær")
    assert found.sources == (f"{base}/page", f"{base}/plain")


def test_a_scraper_reads_no_page_that_the_guard_blocks(server):
    asked = len(server.asked)
    with pytest.raises(ToolError, match=r"loopback|port"):
        call(tools.text_scraper(), f"http://{server.where}/page\nhttp://127.0.0.1/\nfile:///etc/passwd")
    with pytest.raises(ToolError, match="scheme"):
        call(tools.text_scraper(), "file:///etc/passwd")
    with pytest.raises(ToolError, match="no link"):
        call(tools.text_scraper(), " \n")
    assert len(server.asked) == asked


def test_pages_and_characters_are_capped(server):
    base = f"http://{server.where}"
    scraper = tools.text_scraper(allow=[server.where], pages=2, page_chars=10)
    text = call(scraper, "\n".join(f"{base}/page?{n}" for n in range(4))).text
    assert text.count("http://") == 2
    assert text.count("[cut off]") == 2


def test_pages_without_an_article_and_without_trafilatura(monkeypatch):
    html = "<html><head><title>t</title></head><body><p>One&amp;</p><div>two<br>three<script>x</script></div><style>y"
    page = Page("http://x", "text/html", "utf-8", html.encode())
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    assert page_text(page).split() == ["One&", "two", "three"]
    assert page_text(Page("http://x", "text/plain", "no-such-charset", "é".encode())) == "é"


@settings(max_examples=60, deadline=None)
@given(st.text("<>/!-pdivscrt&;#x0 \n\"'=", max_size=80))
def test_any_html_has_some_text(html):
    page_text(Page("http://x", "text/html", None, html.encode()))


def one_page_pdf(text):
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for n, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (n, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % at for at in places)
    return out + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start


def test_pdf_by_option():
    pytest.importorskip("pypdf")
    page = Page("http://x", "application/pdf", None, one_page_pdf("Blueberries are green"))
    assert "Blueberries are green" in page_text(page)
    with pytest.raises(ToolError, match="cannot be read as PDF"):
        page_text(Page("http://x", "application/pdf", None, b"%PDF-nonsense"))


# -- KnowledgeModel


def test_a_model_is_asked_with_its_instruction():
    class Model:
        async def complete(self, prompt, *, max_tokens=0, grammar=None):
            assert max_tokens == 9
            return Completion(f" [{prompt}] ", 12, 3)

    made = tools.knowledge_model(Model(), instruction="Be brief.", max_tokens=9)
    assert call(made, "Why?") == Evidence("[Be brief.\n\nWhy?]", 12, 3)
    assert made.takes_gaps


@pytest.mark.parametrize("unit", ["<!--", "<", "<script>", "<a href='", "<div>", "<b>x"])
def test_the_plain_reader_only_goes_forward(unit):
    from halfbyte.rewoo.tools.page_text import _visible_text

    _visible_text(unit * (1_000_000 // len(unit)))  # a quadratic one takes hours, which the suite's timeout ends


def test_what_the_plain_reader_makes_of_a_page():
    from halfbyte.rewoo.tools.page_text import _visible_text

    page = "<head><title>t</title></head><!-- no --><p>1 < 2 &amp; 3</p><SCRIPT>no</SCRIPT><p>b<br/>c<!-- never closed"
    assert _visible_text(page) == "1 < 2 & 3\n\nb\nc"


def test_trafilatura_can_be_imported():
    """Without all that it needs it would be left out in silence."""
    pytest.importorskip("lxml")
    import trafilatura

    assert trafilatura.extract
