"""One sequence fed through a Runner by hand, for tests of networks."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from halfbyte.engine.block_tables import BlockTables
from halfbyte.engine.runner import Runner
from halfbyte.engine.scheduler import Scheduled

BLOCK = 16


class OneSequence:
    """Its past lies in blocks in reverse order."""

    def __init__(self, network, capacity: int) -> None:
        blocks = -(-capacity // BLOCK)
        tables = BlockTables()
        self.runner = Runner(network, blocks, BLOCK, tables)
        self.sequence = SimpleNamespace(token_ids=[], draft=[], num_computed=0, prompt_length=0, place=tables.take())
        tables.write(self.sequence.place, 0, list(range(blocks))[::-1])

    def hidden(self, tokens: list[int]) -> torch.Tensor:
        """Hidden states [T, D] of more tokens, by one pass."""
        sequence = self.sequence
        sequence.token_ids = sequence.token_ids[: sequence.num_computed] + list(tokens)
        sequence.prompt_length = sequence.prompt_length or len(tokens)
        hidden = self.runner.forward([Scheduled(sequence, sequence.num_computed, len(tokens))])
        sequence.num_computed += len(tokens)
        return hidden

    def next_logits(self, tokens: list[int], chunk: int = 512) -> torch.Tensor:
        """Logits [1, V] of what follows."""
        self.sequence.prompt_length = self.sequence.prompt_length or len(tokens)
        for i in range(0, len(tokens), chunk):
            hidden = self.hidden(tokens[i : i + chunk])
        return self.runner.network.logits(hidden[-1:])
