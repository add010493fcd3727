"""Traces, as a collector receives them: a small HTTP server that reads OTLP's protobuf."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from server_thread import ServerThread
from tiny_repository import write_repository

from halfbyte.errors import ConfigError
from halfbyte.server.models import Models
from halfbyte.server.settings import ServerSettings
from halfbyte.server.traces import full_address

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "An unmistakable prompt"


class Collector:
    """Keeps the spans that it is sent."""

    def __init__(self):
        self.bodies, self.paths = [], []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                collector.paths.append(self.path)
                collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def spans(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (name,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                assert name == "halfbyte"
                for scope in resource.scope_spans:
                    yield from scope.spans


def attributes(span):
    """By name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    """What a server tells of some requests until it is stopped, by their ids; and when it was asked."""
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed: pip install 'halfbyte[otel]'")
    collector, models = Collector(), Models()
    models.add("tiny", str(write_repository(tmp_path_factory.mktemp("tiny"), max_position_embeddings=4096)))
    begin = time.time_ns()
    with ServerThread(ServerSettings(port=0, otlp_endpoint=collector.url), models) as running:

        def ask(name, headers=None, **changes):
            body = {"prompt": SECRET, "max_tokens": 5, "temperature": 0, "ignore_eos": True} | changes
            headers = {"X-Request-Id": name} | (headers or {})
            return httpx.post(f"{running.url}/v1/completions", json=body, headers=headers).status_code

        assert ask("plain", n=2, temperature=0.5, top_p=0.9) == 200
        assert ask("child", {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2"}) == 200
        assert ask("unrecorded", {"traceparent": f"00-{TRACE}-{SPAN}-00"}) == 200
        assert ask("garbled", {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}) == 200
        assert ask("two", prompt=[SECRET, "b"]) == 200
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
        httpx.post(f"{running.url}/v1/chat/completions", json=chat, headers={"X-Request-Id": "chat"}).raise_for_status()
        assert ask("refused", prompt="x" * 5000) == 400
        body = {"prompt": SECRET, "max_tokens": 4000, "ignore_eos": True, "stream": True}
        sent = {"json": body, "headers": {"X-Request-Id": "left"}}
        with httpx.stream("POST", f"{running.url}/v1/completions", **sent) as stream:
            next(stream.iter_lines())
        running.wait_until_idle()
    collector.http.shutdown()
    assert set(collector.paths) == {"/v1/traces"}
    assert SECRET.encode() not in b"".join(collector.bodies)
    found = {}
    for span in collector.spans():
        assert begin <= span.start_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
        found.setdefault(attributes(span)["gen_ai.request.id"], []).append(span)
    return found


def test_a_span_says_what_a_request_took(spans):
    (span,) = spans["plain"]
    found = attributes(span)
    assert (span.name, span.kind, span.parent_span_id) == ("llm_request", span.SPAN_KIND_SERVER, b"")
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == "tiny"
    assert (found["gen_ai.request.n"], found["gen_ai.request.max_tokens"]) == (2, 5)
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.top_p"]) == (0.5, 0.9)
    assert found["gen_ai.usage.prompt_tokens"] == found["gen_ai.usage.input_tokens"] == len(SECRET)
    assert found["gen_ai.usage.completion_tokens"] == found["gen_ai.usage.output_tokens"] == 10
    assert [each.string_value for each in found["gen_ai.response.finish_reasons"].values] == ["length"]
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert found["gen_ai.latency.e2e"] == pytest.approx(seconds, abs=1e-4)
    queue, first, inference = (
        found[f"gen_ai.latency.{name}"] for name in ("time_in_queue", "time_to_first_token", "time_in_model_inference")
    )
    assert 0 <= queue < first < seconds
    assert queue + inference == pytest.approx(seconds, abs=0.05)


def test_a_traceparent_is_honoured(spans):
    (span,) = spans["child"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.trace_state == "a=1,b=2"
    assert "unrecorded" not in spans
    (span,) = spans["garbled"]
    assert span.parent_span_id == b""
    assert any(span.trace_id)


def test_each_prompt_has_a_span_and_ends_are_told(spans):
    assert len(spans["two"]) == 2
    asked = [attributes(spans[name][0])["gen_ai.operation.name"] for name in ("two", "chat")]
    assert asked == ["text_completion", "chat"]
    (left,) = spans["left"]
    assert [each.string_value for each in attributes(left)["gen_ai.response.finish_reasons"].values] == ["abort"]
    (refused,) = spans["refused"]
    assert refused.status.code == refused.status.STATUS_CODE_ERROR
    assert "gen_ai.latency.time_to_first_token" not in attributes(refused)


def test_addresses():
    assert full_address("http://a:4318") == full_address("http://a:4318/") == "http://a:4318/v1/traces"
    assert full_address("https://a/otlp/v1/traces") == "https://a/otlp/v1/traces"
    for wrong in ("a:4318", "grpc://a:4317", "http://"):
        with pytest.raises(ConfigError, match="--otlp-endpoint"):
            full_address(wrong)
