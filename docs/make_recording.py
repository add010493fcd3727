"""Draws docs/demo.svg from a real run of `halfbyte demo`: python docs/make_recording.py"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

WIDTH = 112
FONT_FACES = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)  # fetched from elsewhere; any monospace font will do


def run_demo() -> str:
    """Run the demo from the start in a folder of its own; what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        programs = Path(sys.executable).parent
        command = [str(programs / "halfbyte"), "demo"]
        path = os.pathsep.join((str(programs), os.environ["PATH"]))
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": str(WIDTH)}
        run = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
    return run.stdout


def draw(output: str, path: Path) -> None:
    """The output as a picture of a terminal."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print("[bold green]$[/] halfbyte demo")
    console.print(output.rstrip(), markup=False, highlight=True)
    console.save_svg(str(path), title="halfbyte demo", code_format=FONT_FACES.sub("", CONSOLE_SVG_FORMAT))


if __name__ == "__main__":
    draw(run_demo(), Path(__file__).with_name("demo.svg"))
