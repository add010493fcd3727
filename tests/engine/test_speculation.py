"""Speculation changes nothing but the number of passes."""

from __future__ import annotations

import numpy as np
import torch
from tiny_network import ByteTokenizer, ScriptedNetwork

from halfbyte.engine.core import Engine
from halfbyte.engine.options import EngineOptions
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.engine.speculate import NgramIndex


def test_what_followed_before_is_proposed():
    tokens = [1, 2, 3, 4, 9, 9, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    index = NgramIndex()
    assert index.propose(tokens, 3) == [4, 9, 9]  # 1 2 3 is longer than the later 2 3
    assert index.propose([*tokens, 4], 2) == [9, 9]
    assert index.propose([*tokens, 4, 77], 2) == []
    assert index.propose([*tokens, 4, 77, 2, 3], 9) == [4, 77, 2, 3]  # of equals the latest
    assert NgramIndex().propose([1], 3) == NgramIndex().propose([], 3) == []
    assert NgramIndex().propose(tokens, 0) == []


class Dice(ScriptedNetwork):
    """Whatever came before, 1 to 6 come with chances of their own, and then repeat: guesses are often right."""

    CHANCES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])

    def logits(self, hidden):
        logits = torch.full((len(hidden), 257), -40.0)
        logits[:, 1:7] = self.CHANCES.log()
        return logits


def throws(speculative: int, seeds: range, tokens: int = 40) -> tuple[list[list[int]], Engine]:
    engine = Engine(Dice([1], 20, 64), ByteTokenizer(), 64, EngineOptions(speculative_tokens=speculative))
    answers = {}
    prompt = [1, 2, 1, 1, 3, 1, 2, 2, 1, 4, 1, 1, 2, 3, 1, 2, 1, 1, 2, 2]
    for seed in seeds:
        engine.add(prompt, SamplingParams(max_tokens=tokens, ignore_eos=True), seed, request_id=str(seed))
    while engine.has_work:
        for request, delta in engine.step():
            answers.setdefault(request, []).append(delta.token_id)
    return [answers[str(seed)] for seed in seeds], engine


def test_sampled_answers_are_the_same_token_for_token():
    with_, engine = throws(4, range(40))
    without, _ = throws(0, range(40))
    assert with_ == without
    assert engine.stats.acceptance_rate > 0.1
    assert engine.stats.accepted_tokens + engine.stats.steps > 40


def test_sampled_tokens_keep_their_distribution():
    """Chi-square of the tokens, and of those that follow one another; 1 in 1000 is the level of each."""
    answers, engine = throws(4, range(1000, 1200))
    assert engine.stats.accepted_tokens > 500
    chances = Dice.CHANCES.double().numpy()
    tokens = np.array(answers) - 1
    observed = np.bincount(tokens.ravel(), minlength=6)
    assert ((observed - tokens.size * chances) ** 2 / (tokens.size * chances)).sum() < 20.5  # 5 degrees
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    expected = pairs.sum() * np.outer(chances, chances)
    often = expected >= 5
    statistic = ((pairs - expected) ** 2 / expected)[often].sum()
    degrees = often.sum() - 1
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * np.sqrt(2 / (9 * degrees))) ** 3  # Wilson-Hilferty
