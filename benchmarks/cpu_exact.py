"""Whether greedy tokens on the CPU are those of transformers with the dequantized weights in float32.

    python benchmarks/cpu_exact.py REPOSITORY --text README.md [--prompts 100] [--tokens 32] [--compute auto|float32]

All prompts (8 to 108 tokens, pieces of the text that begin anywhere) are answered at once. transformers then reads each
prompt with its answer in one pass: where its likeliest token is the answer's at every step, the whole answer is
transformers' own. `step` counts them: `others` took another token, `largest_gap` is the largest distance between
transformers' two likeliest logits at such a step, `beyond` those whose gap is over `tolerance`. The tolerance is
measured in the same run: the largest distance between our log-probability and transformers' of either of its two
likeliest tokens, over all steps of all answers. `prompt` compares the log-probabilities of the prompts' own tokens.
Exits with 1 if a step is beyond the tolerance. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from halfbyte import LLM, SamplingParams
from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.int4 import IntWeight
from halfbyte.checkpoint.open import open_source

ALTERNATIVES = 20  # log-probabilities that we give at each step: transformers' two likeliest are among them


def reference(spec: str) -> Any:
    """transformers' network with the repository's weights, dequantized to float32."""
    import transformers

    checkpoint = Checkpoint(open_source(spec))
    settings = {k: v for k, v in checkpoint.source.config.items() if k not in ("model_type", "quantization_config")}
    config = transformers.AutoConfig.for_model(checkpoint.config.model_type, **settings)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model = model.to_empty(device="cpu").float()
    state = {}
    for name in model.state_dict():
        prefix = name.removesuffix(".weight")
        if prefix in checkpoint.linears:
            weight = checkpoint.stored(prefix)
            state[name] = weight.dequantize() if isinstance(weight, IntWeight) else weight.float()
        elif name != "lm_head.weight" or not checkpoint.config.tie_word_embeddings:
            state[name] = checkpoint.tensor(name).float()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies are no part of the state
    return model.eval()


def prompts(llm: LLM, text: str, count: int) -> list[list[int]]:
    rng, ids = random.Random(1), llm.tokenizer.encode(text)
    starts = [rng.randrange(len(ids) - 108) for _ in range(count)]
    return [ids[start : start + rng.randrange(8, 108)] for start in starts]


class Steps:
    """What was seen of the answers' steps."""

    def __init__(self) -> None:
        self.count = self.answers = self.same = 0
        self.gaps: list[float] = []
        self.errors: list[float] = []

    def see(self, scores: torch.Tensor, answer: list[int], ours: list[dict[int, Any]]) -> None:
        """scores: transformers' log-probabilities [steps, V]; ours: by token, at each step."""
        best, ids = scores.topk(2)
        differ = ids[:, 0] != torch.tensor(answer)
        self.count += len(answer)
        self.answers += 1
        self.same += not differ.any()
        self.gaps += (best[differ, 0] - best[differ, 1]).tolist()
        for step, tokens, values in zip(ours, ids.tolist(), best.tolist(), strict=True):
            self.errors += [abs(step[t].logprob - v) for t, v in zip(tokens, values, strict=True) if t in step]

    def report(self) -> dict[str, Any]:
        errors = torch.tensor(self.errors).sort().values
        tolerance = float(errors[-1])
        return {
            "answers": self.answers,
            "the_same": self.same,
            "steps": self.count,
            "others": len(self.gaps),
            "largest_gap": round(max(self.gaps, default=0.0), 5),
            "median_error": round(float(errors[len(errors) // 2]), 5),
            "tolerance": round(tolerance, 5),
            "beyond": sum(gap > tolerance for gap in self.gaps),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("--text", required=True, metavar="FILE")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--compute", choices=("auto", "float32"), default="auto")
    args = parser.parse_args()
    llm = LLM(args.repository, compute=args.compute, device="cpu", max_model_len=512, kv_cache="1GiB")
    given = prompts(llm, Path(args.text).read_text(), args.prompts)
    params = SamplingParams(
        temperature=0, max_tokens=args.tokens, ignore_eos=True, logprobs=ALTERNATIVES, prompt_logprobs=0
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in given], params, use_tqdm=False)
    theirs, steps, read = reference(args.repository), Steps(), []
    for ids, output in zip(given, outputs, strict=True):
        answer = output.outputs[0]
        with torch.inference_mode():
            scores = theirs(torch.tensor([ids + answer.token_ids])).logits[0, :-1].log_softmax(-1)
        steps.see(scores[len(ids) - 1 :], answer.token_ids, answer.logprobs or [])
        own = [step[token].logprob for step, token in zip((output.prompt_logprobs or [])[1:], ids[1:], strict=True)]
        wanted = scores[: len(ids) - 1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        read.append((torch.tensor(own) - wanted).abs())
    found = torch.cat(read)
    prompt = {
        "tokens": len(found),
        "mean_error": round(float(found.mean()), 5),
        "largest_error": round(float(found.max()), 5),
    }
    report = steps.report()
    print(
        json.dumps(
            {"compute": args.compute, "kernels": type(llm.network.kernels).__name__, "step": report, "prompt": prompt}
        )
    )
    sys.exit(report["beyond"] > 0)


if __name__ == "__main__":
    main()
