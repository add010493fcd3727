"""`halfbyte plan`."""

from __future__ import annotations

import json

import pytest
import typer.testing
from rewoo_pages import serving
from test_rewoo_completion import Chat

from halfbyte.cli.main import app

PLAN = "Plan: multiply\n:evidence0: = Calculator[6*7]\nPlan: add\n:evidence1: = Calculator[:evidence0: + 1]\nAnswer: It is :evidence1:\n"


def call(*arguments, stdin=None):
    return typer.testing.CliRunner().invoke(app, ["plan", *map(str, arguments)], input=stdin)


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.txt"
    path.write_text(PLAN)
    return path


def test_a_plan_is_shown_and_run(plan_file, tmp_path):
    trace, picture = tmp_path / "t.json", tmp_path / "t.svg"
    result = call("q", "--plan", plan_file, "--tools", "calculator", "--yes", "--trace", trace, "--picture", picture)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "It is 43\n"
    assert ":evidence0: = Calculator[6*7]" in result.stderr
    assert json.loads(trace.read_text())["answer"] == "It is 43"
    assert picture.read_text().startswith("<svg")
    again = call("q", "--resume", trace, "--tools", "Calculator", "--yes", "--json")
    assert {step["origin"] for step in json.loads(again.stdout)["steps"]} == {"earlier run"}


def test_nothing_runs_without_a_yes(plan_file, tmp_path):
    trace = tmp_path / "t.json"
    for answer in ("n\n", "\n"):
        result = call("q", "--plan", plan_file, "--tools", "Calculator", "--trace", trace, stdin=answer)
        assert result.exit_code == 0
        assert "43" not in result.stdout
        assert not trace.exists()
    assert call("q", "--plan", plan_file, "--tools", "Calculator", stdin="y\n").stdout.endswith("It is 43\n")


def test_a_trace_that_is_none_is_named(tmp_path):
    (tmp_path / "t.json").write_text("{")
    result = call("q", "--resume", tmp_path / "t.json", "--tools", "Calculator", "--yes")
    assert result.exit_code == 1
    assert f"--resume {tmp_path / 't.json'}: not a trace" in result.stderr


def test_a_plan_from_an_endpoint():
    class Planner(Chat):
        def do_POST(self):  # noqa: N802  http.server calls it so
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            self.server.asked.append(request["messages"][0]["content"])
            self.answer(json.dumps({"choices": [{"message": {"content": PLAN}}]}).encode(), "application/json")

    with serving(handler=Planner) as server:
        result = call("What is 43?", "--tools", "Calculator", "--endpoint", f"http://{server.where}/v1", "--yes")
        assert result.stdout == "It is 43\n", result.stderr
        assert "Calculator[input]: Evaluate" in server.asked[0]
        assert server.asked[0].endswith("Question: What is 43?")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--tools", "Nope"],
        ["--tools", ","],
        ["--model", "a", "--endpoint", "http://b"],
        ["--tools", "Calculator"],
        ["--on-failure", "cry", "--model", "a"],
    ],
)
def test_wrong_usage_of_plan(options):
    result = call("q", *options)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (":evidence0: = Calculator[x", "never closed"),
        (":evidence0: = Nope[1]", "line 1, column 15: there is no tool 'Nope'"),
        (":evidence0: = Calculator[1/0]", "divides by zero"),
    ],
)
def test_failures_of_plan_are_one_line(tmp_path, plan, message):
    path = tmp_path / "plan.txt"
    path.write_text(plan)
    result = call("q", "--plan", path, "--tools", "Calculator", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xff")
    for options in (["--plan", tmp_path / "latin"], ["--plan", tmp_path / "none"], ["--resume", tmp_path / "latin"]):
        result = call("q", *options, "--tools", "Calculator", "--yes")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")


BROKEN = ":evidence0: = Calculator[1/0]\nAnswer: :evidence0:\n"


class Replanner(Chat):
    """Plans to divide by zero, then as it should."""

    def do_POST(self):  # noqa: N802  http.server calls it so
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request["messages"][0]["content"])
        text = PLAN if "did not work" in self.server.asked[-1] else self.server.first
        self.answer(json.dumps({"choices": [{"message": {"content": text}}]}).encode(), "application/json")


@pytest.mark.parametrize("first", [BROKEN, "no plan at all"])
def test_another_plan_is_shown_and_agreed_to(first, tmp_path):
    trace = tmp_path / "t.json"
    with serving(handler=Replanner) as server:
        server.first = first
        options = ("q", "--tools", "Calculator", "--endpoint", f"http://{server.where}/v1", "--trace", trace)
        told = call(*options, "--on-failure", "replan", stdin="y\ny\n")
        assert told.exit_code == 0, told.stderr
        assert told.stdout.endswith("It is 43\n")
        assert "6*7" in told.stderr
        assert len(server.asked) == 2
        asked = told.stderr.count("Run it?")
        assert asked == (2 if first == BROKEN else 1)
        assert (json.loads(trace.read_text())["replaced"] is not None) == (first == BROKEN)
        refused = call(*options, "--on-failure", "replan", stdin="y\nn\n" if first == BROKEN else "n\n")
        assert refused.exit_code == 0
        assert "43" not in refused.stdout


def test_an_interrupted_run_keeps_its_trace(plan_file, tmp_path, monkeypatch):
    import halfbyte.cli.plan as command
    from halfbyte.rewoo import tool

    async def interrupt(expression: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "make_tool", lambda *_: tool(name="Calculator")(interrupt))
    trace = tmp_path / "t.json"
    assert call("q", "--plan", plan_file, "--tools", "Calculator", "--yes", "--trace", trace).exit_code != 0
    kept = json.loads(trace.read_text())
    assert kept["plan"] == PLAN
    assert kept["status"] != "done"
