"""Ranks that are threads of the test's process: cheap, and they say what they were given."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


class ThreadRank:
    """A Collective. `board` is what all of them write on."""

    def __init__(self, rank, ranks, board, barrier):
        self.rank, self.ranks, self.board, self.barrier = rank, ranks, board, barrier

    def exchange(self, x):
        self.board[self.rank] = x.clone()
        self.barrier.wait(60)
        parts = [self.board[rank] for rank in range(self.ranks)]
        self.barrier.wait(60)
        return parts

    def add(self, x):
        x.copy_(sum(self.exchange(x)))

    def copy(self, x):
        x.copy_(self.exchange(x)[0])

    def gather(self, x):
        parts = self.exchange(x)
        return parts if self.rank == 0 else None


def on_all(ranks, work):
    """What `work(collective)` gives on each of so many ranks."""
    board, barrier = {}, threading.Barrier(ranks)

    def one(rank):
        with torch.inference_mode():
            return work(ThreadRank(rank, ranks, board, barrier))

    with ThreadPoolExecutor(ranks) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(ranks)]]
