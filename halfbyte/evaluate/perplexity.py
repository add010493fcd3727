"""Perplexity on a text, and how far a model's predictions are from a reference's.

The protocol: the text is one string, its lines ended by a newline alone. It is tokenized once, with a BOS token before
it if the tokenizer adds one and no other special token, and cut into non-overlapping windows of `context` tokens; what
is left over is dropped. Each window is read alone and predicts all its tokens but the first, so W windows of C tokens
give W * (C - 1) predictions. Figures are comparable only with others of the same text, context and number of windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from halfbyte.errors import EvaluationError
from halfbyte.evaluate.reference import KeptReference
from halfbyte.models.attend import WholeSequences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from halfbyte.checkpoint.tokenizer import Tokenizer
    from halfbyte.models.network import Network

LOGIT_BYTES = 32 * 2**20  # of float32 logits held at once; the arrays derived from them make it a few times that


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Means over the predicted positions, in nats. Those beside a reference are None without one."""

    tokens: int  # predicted positions
    loss: float  # -log p(token), mean
    reference_loss: float | None = None
    kl_divergence: float | None = None  # KL(reference || model)
    top1_agreement: float | None = None  # share of positions where both hold the same token most likely

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    @property
    def reference_perplexity(self) -> float | None:
        """exp(reference_loss)."""
        return None if self.reference_loss is None else math.exp(self.reference_loss)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, its lines ended by \\n whatever the file has: \\r would be predicted as a character.

    Raises EvaluationError if it is missing or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        raise EvaluationError(
            f"{path} is not UTF-8: byte {e.start} is 0x{e.object[e.start]:02x}; convert it first"
        ) from e
    except OSError as e:
        raise EvaluationError(f"cannot read {path}: {e.strerror}") from e


def tokenize(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of the whole text; a BOS token leads if the tokenizer adds one, and nothing else is added."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    adds_bos = tokenizer.bos_token_id is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id, *ids] if adds_bos and tokenizer.bos_token_id is not None else ids


def cut_windows(ids: list[int], context: int, limit: int | None = None) -> torch.Tensor:
    """The first `limit` windows (None: all) of `context` tokens, [W, C] int64."""
    whole = len(ids) // context
    if whole == 0:
        raise EvaluationError(f"the text has {len(ids)} tokens, too few for one window of {context}; lower the context")
    if limit is not None and limit > whole:
        raise EvaluationError(f"the text gives {whole} windows of {context} tokens, and {limit} were asked for")
    windows = whole if limit is None else limit
    return torch.tensor(ids[: windows * context]).view(windows, context)


def measure(
    network: Network,
    windows: torch.Tensor,
    reference: Network | KeptReference | None = None,
    progress: Callable[[int], None] | None = None,
) -> Perplexity:
    """Run every window of tokens [W, C] through the network, and through the reference beside it.

    `progress` is called with the number of windows done. Raises EvaluationError if the vocabularies differ in size or
    a window gives logits that are not finite.
    """
    if reference is not None:
        check_vocabularies(network, reference)
    sums = torch.zeros(4, dtype=torch.float64)
    for done, window in enumerate(windows.to(network.device), start=1):
        before = None if reference is None else hidden_of(reference, window, done - 1)
        sums += sum(window_sums(network, reference, window, before), torch.zeros(4, dtype=torch.float64))
        if not sums.isfinite().all():
            raise EvaluationError(f"window {done} of {len(windows)} gave logits that are not finite")
        if progress:
            progress(done)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    loss, reference_loss, kl, agreement = (sums / tokens).tolist()
    if reference is None:
        return Perplexity(tokens, loss)
    return Perplexity(tokens, loss, reference_loss, kl, agreement)


def hidden_of(reference: Network | KeptReference, window: torch.Tensor, index: int) -> torch.Tensor:
    """What the reference's head is to be given for a window: kept, or computed now."""
    return reference.hidden[index] if isinstance(reference, KeptReference) else predict(reference, window)


def window_sums(
    network: Network,
    reference: Network | KeptReference | None,
    window: torch.Tensor,
    reference_hidden: torch.Tensor | None,
) -> Iterator[torch.Tensor]:
    """Of one window [C], slice by slice: summed losses of both, summed KL, positions that agree, as [4] float64."""
    hidden, targets = predict(network, window), window[1:]
    rows = max(1, LOGIT_BYTES // (4 * network.config.vocab_size))
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        logp = network.logits(hidden[part]).log_softmax(-1)
        if reference is None or reference_hidden is None:
            loss = -picked(logp, targets[part])
            yield torch.stack((loss.cpu(), *torch.zeros(3, dtype=torch.float64)))
            continue
        reference_logp = reference.logits(reference_hidden[part]).log_softmax(-1)
        losses = (-picked(logp, targets[part]), -picked(reference_logp, targets[part]))
        yield torch.stack((*losses, divergence(reference_logp, logp), agreement(reference_logp, logp))).cpu()


def predict(network: Network, window: torch.Tensor) -> torch.Tensor:
    """Hidden states [C - 1, D] from which the window's tokens but the first are predicted."""
    inputs = window[:-1].to(network.device)
    positions = torch.arange(len(inputs), device=inputs.device)
    return network.forward(inputs, positions, WholeSequences(network.config, batch=1))


def picked(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the log probabilities [T, V] of the tokens [T], in float64."""
    return logp.gather(-1, targets[:, None]).double().sum()


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Sum over positions of KL(p || q) in nats, for log probabilities [T, V]."""
    return (p.exp() * (p - q)).sum(-1).double().sum()


def agreement(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Number of positions at which both hold the same token most likely."""
    return (p.argmax(-1) == q.argmax(-1)).double().sum()


def check_vocabularies(network: Network, reference: Network | KeptReference) -> None:
    """Raise EvaluationError if two networks cannot be compared token by token."""
    ours, theirs = network.config.vocab_size, reference.config.vocab_size
    if ours != theirs:
        raise EvaluationError(
            f"the model has a vocabulary of {ours} tokens and the reference one of {theirs}; "
            "compare with the model that it was quantized from"
        )
