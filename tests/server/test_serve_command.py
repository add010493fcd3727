"""`halfbyte serve` as a program: how it fails to start. That it serves, all other tests of this room show."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from halfbyte.cli.main import app


def serve(*arguments):
    command = [sys.executable, "-m", "halfbyte", "serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    code, _, errors = serve(tmp_path / "nothing", "--port", 0)
    assert code == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: ")
    assert "there is no such file or folder" in errors.splitlines()[-1]


def test_an_address_in_use_is_told_before_the_model_is_read(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = serve(tmp_path / "nothing", "--port", port)
    assert code == 1
    assert errors.splitlines()[-1] == f"error: --host 127.0.0.1 --port {port}: Address already in use"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give a MODEL"),
        (["--model", "no-equals-sign"], 2, "'no-equals-sign' is not"),
        (["--served-model-name", "a", "--model", "b=c"], 2, "which is not given"),
        (["m", "--api-key-file", "/nowhere"], 1, "/nowhere"),
        (["m", "--ssl-certfile", "/nowhere"], 1, "--ssl-keyfile"),
        (["m", "--host", "no.such.host.invalid"], 1, "--host no.such.host.invalid"),
    ],
)
def test_what_is_wrong_with_its_options(arguments, code, message):
    result = CliRunner().invoke(app, ["serve", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert message in result.output
