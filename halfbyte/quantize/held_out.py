"""How much worse the quantized model predicts text that nothing was learnt from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from halfbyte.errors import GateError
from halfbyte.kernels.reference import rms_norm
from halfbyte.quantize.stream import micro_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from halfbyte.quantize.activations import Activations

MOST_LOGITS = 2**22  # float32 numbers held at once, several times over: the C library hands on what is no larger
ON_A_GPU = 2**24  # the same there


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Means over `tokens` predicted tokens of samples that were not calibrated on (unless `of_calibration` says so)."""

    tokens: int
    reference_perplexity: float
    perplexity: float
    kl_divergence: float  # KL(reference || quantized), nats
    of_calibration: bool

    @property
    def rise(self) -> float:
        """How much perplexity went up, 0.05 is 5 %."""
        return self.perplexity / self.reference_perplexity - 1

    def as_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {**asdict(self), "rise": self.rise}

    def check(self, gate: float | None) -> None:
        """Raise GateError if perplexity rose by more than the gate allows (or is not a number)."""
        if gate is not None and not self.rise <= gate:
            raise GateError(
                f"perplexity on held-out text went from {self.reference_perplexity:.3f} to {self.perplexity:.3f}, up "
                f"{100 * self.rise:.1f} %, more than --gate {100 * gate:g}% allows; nothing was written. Try a smaller "
                "--group-size, --effort best, more --samples, or calibration text nearer to what the model will "
                "read; the same command with a higher --gate finishes at once"
            )


def measure_held_out(
    streams: tuple[Activations, Activations],
    tokens: torch.Tensor,
    samples: slice,
    norms: tuple[torch.Tensor, torch.Tensor],
    eps: float,
    head: torch.Tensor,
    *,
    of_calibration: bool,
) -> HeldOut:
    """Compare the streams of the float and of the quantized model behind their last blocks, on some samples.

    tokens: [samples, length]; norms: each model's final one; head: [V, D].
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for part in micro_batches(samples.start, samples.stop, tokens.shape[1]):
        hidden = [
            rms_norm(stream.read(part.start, part.stop)[:, :-1].flatten(0, 1), norm, eps)
            for stream, norm in zip(streams, norms, strict=True)
        ]
        targets = tokens[part.start : part.stop, 1:].flatten().to(head.device)
        for rows in row_chunks(len(targets), head):
            reference, ours = (F.log_softmax(F.linear(h[rows], head), -1) for h in hidden)
            losses = [-logp.gather(1, targets[rows, None]).double().sum() for logp in (reference, ours)]
            kl = (reference.exp() * (reference - ours)).sum(-1).double().sum()
            sums += torch.stack([*losses, kl]).cpu()
    count = (samples.stop - samples.start) * (tokens.shape[1] - 1)
    reference_loss, loss, kl_divergence = (sums / max(count, 1)).tolist()
    return HeldOut(count, _exp(reference_loss), _exp(loss), kl_divergence, of_calibration)


def row_chunks(rows: int, head: torch.Tensor) -> Iterator[slice]:
    """Rows whose logits by a head [V, D] may be held at once."""
    at_once = max(1, most_logits(head.device.type) // head.shape[0])
    for begin in range(0, rows, at_once):
        yield slice(begin, min(begin + at_once, rows))


def most_logits(device: str) -> int:
    """Float32 numbers held at once, on a type of device."""
    return ON_A_GPU if device == "cuda" else MOST_LOGITS


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
