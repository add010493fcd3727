"""lm-eval against the server scores what the engine scores in this process; the harness itself is the judge.

It is a large package that wants versions of its own, so that it is not among the test tools: it is looked for on the
PATH, or where HALFBYTE_LM_EVAL says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LM_EVAL = os.environ.get("HALFBYTE_LM_EVAL") or shutil.which("lm-eval")
pytestmark = pytest.mark.skipif(
    LM_EVAL is None, reason="lm-eval is not installed; HALFBYTE_LM_EVAL may say where the command is"
)


@pytest.fixture(scope="module")
def in_process(smollm2_awq):
    """The lines of benchmarks/lm_eval_in_process.py."""
    command = [sys.executable, "benchmarks/lm_eval_in_process.py", str(smollm2_awq)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"question"')]


def samples(task, out, *arguments):
    """What the harness has seen, in the order of the data."""
    assert LM_EVAL is not None
    command = [LM_EVAL, "run", *arguments, "--tasks", task, "--include_path", "benchmarks/data/lm_eval"]
    command += ["--log_samples", "--output_path", str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(out / "cache"), "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = out.glob(f"*/samples_{task}_2*.jsonl")
    return sorted(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])


def test_local_completions_has_the_engine_s_loglikelihoods(server, smollm2_awq, in_process, tmp_path):
    about = f"model=smol,base_url={server.url}/v1/completions,tokenizer={smollm2_awq},num_concurrent=2,max_retries=1"
    seen = samples(
        "halfbyte_capitals", tmp_path, "--model", "local-completions", "--batch_size", "4", "--model_args", about
    )
    ours = [line["loglikelihoods"] for line in in_process if "loglikelihoods" in line]
    for sample, expected in zip(seen, ours, strict=True):
        assert [float(answer[0][0]) for answer in sample["resps"]] == pytest.approx(expected, abs=0.05)
    assert sum(sample["acc"] for sample in seen) > len(seen) / 3  # chance is a quarter


def test_local_chat_completions_has_the_engine_s_answers(server, in_process, tmp_path):
    about = f"model=smol,base_url={server.url}/v1/chat/completions,num_concurrent=2,max_retries=1"
    seen = samples(
        "halfbyte_capitals_chat", tmp_path, "--model", "local-chat-completions", "--apply_chat_template",
        "--model_args", about,
    )  # fmt: skip
    ours = {line["question"]: line["answer"] for line in in_process if "answer" in line}
    same = sum(sample["resps"][0][0] == ours[f"What is the {sample['doc']['question'][4:-3]}?"] for sample in seen)
    assert same >= len(seen) - 1  # another batch shape may round otherwise
