"""The part of the Hub's HTTP interface that an upload needs, in memory, on a local port."""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse


class Hub:
    """What was sent. files: (repo, branch) -> name -> bytes; blobs: LFS contents by hash; calls: method and path."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.refuses_card = ""
        self.fails_after: int | None = None  # LFS objects taken before the connection breaks


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, value=None, status=200, **headers):
        body = value.encode() if isinstance(value, str) else json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def route(self):
        path, data = urlparse(self.path).path, self.body()
        self.hub.calls.append(f"{self.command} {path}")
        for pattern, work in _ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                return work(self, data, *match.groups())
        return self.answer({"error": f"no such route: {self.command} {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = route  # noqa: N815  http.server looks for these names

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


def _validate(h, data):
    if h.hub.refuses_card:
        return h.answer(h.hub.refuses_card, 400)
    return h.answer({"errors": [], "warnings": []})


def _create(h, data):
    wanted = json.loads(data)
    repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
    status = 409 if (repo, "main") in h.hub.files else 200
    h.hub.files.setdefault((repo, "main"), {})
    return h.answer({"url": f"{h.base}/{repo}"}, status)


def _branch(h, data, repo, branch):
    if (repo, branch) in h.hub.files:
        return h.answer({"error": "Reference already exists"}, 409)
    h.hub.files[repo, branch] = {}
    return h.answer()


def _info(h, data, repo, revision):
    files = h.hub.files.get((repo, revision or "main"))
    if files is None:
        return h.answer({"error": "not found"}, 404)
    return h.answer({"id": repo, "sha": "0" * 40, "siblings": [{"rfilename": n} for n in files], "private": False})


def _preupload(h, data, repo, revision):
    def mode(file):
        return "lfs" if re.search(r"\.(gguf|safetensors|bin)$", file["path"]) else "regular"

    files = json.loads(data)["files"]
    return h.answer({"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in files]})


def _lfs(h, data, repo):
    objects = []
    for wanted in json.loads(data)["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in h.hub.blobs:
            entry["actions"] = {"upload": {"href": f"{h.base}/lfs/{wanted['oid']}", "header": {}}}
        objects.append(entry)
    return h.answer({"transfer": "basic", "objects": objects})


def _put(h, data, oid):
    if h.hub.fails_after == 0:
        return h.answer({"error": "gone"}, 403)
    if h.hub.fails_after is not None:
        h.hub.fails_after -= 1
    h.hub.blobs[oid] = data
    return h.answer()


def _commit(h, data, repo, revision):
    files = h.hub.files[repo, revision]
    for line in data.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            files[value["path"]] = h.hub.blobs[value["oid"]]
    return h.answer({"success": True, "commitUrl": f"{h.base}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40})


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"POST /api/validate-yaml", _validate),
    (r"POST /api/repos/create", _create),
    (rf"POST /api/models/{_REPO}/branch/([\w.-]+)", _branch),
    (rf"GET /api/models/{_REPO}(?:/revision/([\w.-]+))?", _info),
    (rf"POST /api/models/{_REPO}/preupload/([\w.-]+)", _preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _lfs),
    (r"PUT /lfs/(\w+)", _put),
    (rf"POST /api/models/{_REPO}/commit/([\w.-]+)", _commit),
]


@contextmanager
def running_hub():
    """(the hub, its address)."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
