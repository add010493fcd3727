"""A web server on loopback that misbehaves on request."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARTICLE = "<p>" + " ".join(f"Louise Gluck won the prize, sentence {n}." for n in range(20)) + "</p>"
PAGE = f"<html><head><title>T</title><script>var hidden=1</script></head><body><h1>Head</h1>{ARTICLE}</body></html>"
BOMB = gzip.compress(b"\0" * 50_000_000)


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Host")))
        name = self.path.partition("?")[0].strip("/").replace("-", "_") or "page"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, name, self.missing)()

    def answer(self, body: bytes, content_type="text/html; charset=utf-8", status=200, **headers):
        self.send_response(status)
        for key, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def page(self):
        self.answer(PAGE.encode())

    def plain(self):
        self.answer("Blåbær\n".encode("latin-1"), "text/plain; charset=latin-1")

    def zipped(self):
        self.answer(gzip.compress(PAGE.encode()), Content_Encoding="gzip")

    def bomb(self):
        self.answer(BOMB, Content_Encoding="gzip")

    def broken_zip(self):
        self.answer(b"not gzip at all", Content_Encoding="gzip")

    def brotli(self):
        self.answer(b"xx", Content_Encoding="br")

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(4000):
            self.wfile.write(b"x" * 10_000)
        self.close_connection = True

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)
            if self.server.closing:
                return

    def image(self):
        self.answer(b"GIF89a", "image/gif")

    def untyped(self):
        self.answer(b"x", None)

    def busy(self):
        self.answer(b"", status=503, Retry_After="7")

    def missing(self):
        self.answer(b"no", status=404)

    def to_page(self):
        self.answer(b"", status=302, Location="/page")

    def to_itself(self):
        self.answer(b"", status=301, Location="/to-itself")

    def to(self):
        self.answer(b"", status=307, Location=self.path.partition("?")[2])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(tls=None, handler=Pages):
    """The server; `where` is its host:port, `asked` what was asked of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.asked, server.closing = [], False
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.where = f"127.0.0.1:{server.server_address[1]}"
    server.port = server.server_address[1]
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing = True
        server.shutdown()
        server.server_close()
