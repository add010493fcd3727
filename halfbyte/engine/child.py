"""A process of our own, and a pipe to it.

Not by multiprocessing: that runs a program which lacks `if __name__ == "__main__"` once more in the child, and a daemon
of its kind may have no children.
"""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def start_child(module: str) -> tuple[subprocess.Popen[bytes], Connection]:
    """`python -m module FD`: the descriptor is that of its end of the pipe, whose end is the end of us."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", module, str(theirs.fileno())]
    places = os.pathsep.join(place or os.getcwd() for place in sys.path)  # it is to find the halfbyte that we are
    environment = {**os.environ, "PYTHONPATH": places}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
    theirs.close()
    return process, ours
