"""Fuzzes the reader of GGUF files: whatever the file says of itself, it is read or refused, in little memory and time.

    python tests/fuzz/fuzz_gguf.py [--count 100000] [--seed 0]

Not collected by pytest: tests/convert/test_convert_hostile.py is its short form. An address space of 1 GB more than the
process has, and 20 s for each file, end the run at the first file that asks for more; it is left in the working folder.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "convert"), str(TESTS / "checkpoint")]

import torch  # noqa: E402
from gguf_mutations import Cut, mutated, read_all  # noqa: E402
from small_gguf import write_small_files  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        cuts = [Cut(path.read_bytes()) for path in write_small_files(Path(name))]
        path = Path(name) / "hostile.gguf"
        for cut in cuts:  # as it is, it is read: and what a read needs at all is there before memory is limited
            path.write_bytes(cut.data)
            assert read_all(path) is None
        limit = int(re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 + 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        told: Counter[str] = Counter()
        slowest = 0.0
        for n in range(options.count):
            data = mutated(cuts[n % len(cuts)], random.Random(f"{options.seed}-{n}"))
            path.write_bytes(data)
            started = time.process_time()
            signal.alarm(20)
            try:
                message = read_all(path)
            except BaseException:
                Path("hostile.gguf").write_bytes(data)
                print(f"file {n} of seed {options.seed} is left in hostile.gguf", flush=True)
                raise
            signal.alarm(0)
            slowest = max(slowest, time.process_time() - started)
            told[re.sub(r"'.*?'|\d+|\S*/\S*", "_", message)[:70] if message else "read"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.count} files, slowest {slowest:.2f} s of CPU, {peak:.0f} MB at most")
    for message, count in told.most_common(40):
        print(f"{count:7} {message}".replace("\n", " "))


if __name__ == "__main__":
    main()
