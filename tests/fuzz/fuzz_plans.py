"""Fuzzes the readers of halfbyte.rewoo: whatever the bytes, a result or a located error, nothing else.

    pip install atheris
    python tests/fuzz/fuzz_plans.py -max_total_time=300 -max_len=4096

Not collected by pytest: the hypothesis tests and the mutated plans of tests/rewoo are its short form.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["halfbyte.rewoo"]):
    from halfbyte.errors import BlockedURL, PlanError, ToolError, TraceError
    from halfbyte.rewoo.dialects import label_of
    from halfbyte.rewoo.guard import check_url
    from halfbyte.rewoo.parser import finish_plan, parse_plan
    from halfbyte.rewoo.reader import PlanReader
    from halfbyte.rewoo.tools.calculator import evaluate
    from halfbyte.rewoo.tools.hyperlinks import find_links
    from halfbyte.rewoo.trace import Trace

TOOLS = ("A", "DuckDuckGo", "KnowledgeModel")
WORDS = (
    "Plan: ", "\n", ":evidence0: = A[", ":evidence1: = DuckDuckGo[", "]", "[", ":evidence0:", ":evidence10:", "#E1 = A[", "#E1", "Answer: ",
    "Final answer: ", "Solver[", "```", "**", "`", "\r\n", "- ", ":Evidence[2]", " = ", "Question: ", "http://", "127.0.0.1", "[::1]", "a.b", ":80",
    "@", "%", "0x7f", "\u3002", '{"halfbyte_trace": 1, "steps": [', '{"id": 0}', "]}", "1+", "sqrt(", "9**9", ")",
)  # fmt: skip


def one(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    parts = []
    while provider.remaining_bytes() and len(parts) < 60:
        parts.append(provider.PickValueInList(list(WORDS)) if provider.ConsumeBool() else provider.ConsumeUnicode(8))
    text = "".join(parts)
    whole = plan_of(text)
    assert whole == plan_in_pieces(parts)
    for read, error in ((evaluate, ToolError), (Trace.from_json, TraceError)):
        with contextlib.suppress(error):
            read(text)
    for link in find_links(text):
        assert link.lower().startswith(("http://", "https://"))
    try:
        checked = check_url(text, resolver=lambda host, port: ["10.0.0.1"])
    except BlockedURL:
        return
    assert checked.addresses == (checked.host,)  # only a public address written as such: every name leads inside here


def plan_of(text: str) -> object:
    try:
        plan = parse_plan(text, TOOLS)
    except PlanError as error:
        assert error.line >= 1 <= error.column
        return [str(problem) for problem in error.problems]
    for step in plan.steps:
        for reference in step.references:
            assert step.argument[reference.start : reference.end] == label_of(plan.dialect, reference.id)
    return plan


def plan_in_pieces(pieces: list[str]) -> object:
    """What the streaming reader makes of the same text."""
    reader = PlanReader(dict.fromkeys(sorted(TOOLS)))
    for piece in pieces:
        reader.feed(piece)
    reader.close()
    try:
        return finish_plan(reader, "".join(pieces))
    except PlanError as error:
        return [str(problem) for problem in error.problems]


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
