"""The small tasks of benchmarks/data/lm_eval, scored here as lm-eval scores them: what the server must equal.

    python benchmarks/lm_eval_in_process.py MODEL

acc: the choice of the highest log-probability is right; acc_norm: of the highest log-probability by character;
exact_match: the model, asked in a chat, answers in just these words.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from halfbyte.engine.llm import LLM
from halfbyte.engine.sampling_params import SamplingParams

TASK = Path(__file__).parent / "data" / "lm_eval" / "capitals.jsonl"


def main(model: str) -> None:
    llm = LLM(model)
    choose(llm)
    chat(llm)


def choose(llm: LLM) -> None:
    """halfbyte_capitals."""
    right = {"acc": 0, "acc_norm": 0}
    rows = [json.loads(line) for line in TASK.read_text().splitlines()]
    for row in rows:
        found = [loglikelihood(llm, row["question"], f" {choice}") for choice in row["choices"]]
        by_character = [score / len(choice) for score, choice in zip(found, row["choices"], strict=True)]
        for name, scores in (("acc", found), ("acc_norm", by_character)):
            right[name] += max(range(len(scores)), key=scores.__getitem__) == row["answer"]
        print(json.dumps({"question": row["question"], "loglikelihoods": found}, ensure_ascii=False))
    print({name: count / len(rows) for name, count in right.items()})


def chat(llm: LLM) -> None:
    """halfbyte_capitals_chat."""
    rows = [json.loads(line) for line in TASK.read_text().splitlines()]
    questions = [f"What is the {row['question'][4:-3]}?" for row in rows]  # without "The " and " is"
    params = SamplingParams(temperature=0, max_tokens=24, stop=["\n"])
    asked = [[{"role": "user", "content": question}] for question in questions]
    answers = [output.outputs[0].text for output in llm.chat(asked, params, use_tqdm=False)]
    wanted = [f"{row['question']} {row['choices'][row['answer']]}." for row in rows]
    for question, answer in zip(questions, answers, strict=True):
        print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False))
    print({"exact_match": sum(a == w for a, w in zip(answers, wanted, strict=True)) / len(rows)})


def loglikelihood(llm: LLM, question: str, choice: str) -> float:
    """The summed log-probability of the choice's tokens after the question."""
    tokens, before = llm.tokenizer.encode(question + choice), len(llm.tokenizer.encode(question))
    prompt = {"prompt_token_ids": tokens}
    (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    assert output.prompt_logprobs is not None
    steps = zip(tokens[before:], output.prompt_logprobs[before:], strict=True)
    return sum(step[token].logprob for token, step in steps if step is not None)


if __name__ == "__main__":
    main(sys.argv[1])
