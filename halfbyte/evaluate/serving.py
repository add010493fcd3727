"""How fast requests are served: when each token came, and the figures that vLLM's benchmarks print."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

METRICS = {
    "ttft": "time to the first token",
    "tpot": "time per output token",
    "itl": "between two tokens",
    "e2e": "whole request",
}


@dataclass(slots=True)
class Timing:
    """One request: when it was sent and when each of its tokens came, in seconds of one clock."""

    sent: float
    prompt_tokens: int
    arrivals: list[float] = field(default_factory=list)  # one for each token, or for each piece that a server sent
    tokens: int | None = None  # what a server says that it sent, if pieces are not tokens
    error: str | None = None

    @property
    def output_tokens(self) -> int:
        """How many came."""
        return len(self.arrivals) if self.tokens is None else self.tokens


@dataclass(slots=True)
class Report:
    """Figures over many requests. Times in milliseconds, each with mean, median and p99."""

    requests: int
    failed: int
    seconds: float
    prompt_tokens: int
    output_tokens: int
    times: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with rates."""
        seconds = max(self.seconds, 1e-9)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "requests_per_second": (self.requests - self.failed) / seconds,
            "output_tokens_per_second": self.output_tokens / seconds,
            "total_tokens_per_second": (self.prompt_tokens + self.output_tokens) / seconds,
            "milliseconds": self.times,
        }


def samples(timings: list[Timing]) -> dict[str, list[float]]:
    """The single times behind a report, in milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for timing in timings:
        if timing.error is not None or not timing.arrivals:
            continue
        first, last = timing.arrivals[0], timing.arrivals[-1]
        found["ttft"].append((first - timing.sent) * 1e3)
        found["e2e"].append((last - timing.sent) * 1e3)
        found["itl"] += (np.diff(timing.arrivals) * 1e3).tolist()
        if timing.output_tokens > 1:
            found["tpot"].append((last - first) / (timing.output_tokens - 1) * 1e3)
    return found


def report(timings: list[Timing], seconds: float) -> Report:
    """seconds: from the first request to the last token."""
    good = [timing for timing in timings if timing.error is None]
    return Report(
        requests=len(timings),
        failed=len(timings) - len(good),
        seconds=seconds,
        prompt_tokens=sum(timing.prompt_tokens for timing in good),
        output_tokens=sum(timing.output_tokens for timing in good),
        times={name: _figures(values) for name, values in samples(timings).items() if values},
    )


def _figures(values: list[float]) -> dict[str, float]:
    mean, median, p99 = np.mean(values), np.median(values), np.percentile(values, 99)
    return {"mean": float(mean), "median": float(median), "p99": float(p99)}
