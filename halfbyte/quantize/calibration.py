"""Calibration tokens: which text, and how it is cut into samples."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from halfbyte.errors import QuantizeError

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1/train-00000-of-00001.parquet")


def calibration_text(calib: str) -> str:
    """The text that `--calib` names. Raises QuantizeError if it cannot be had."""
    if calib == "builtin":
        return builtin_text()
    if calib == "wikitext":
        return wikitext()
    path = Path(calib)
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise QuantizeError(f"--calib {calib}: no such file (and not one of builtin, wikitext)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizeError(f"--calib {calib}: not a readable UTF-8 text: {error}") from None


def builtin_text() -> str:
    """Python's own language reference, which comes with Python: prose, lists, grammar and code, 700 kB."""
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415
    except ImportError:
        raise QuantizeError("this Python lacks pydoc_data; pass a text file with --calib FILE") from None
    return "\n\n".join(topics[name] for name in sorted(topics))


def wikitext() -> str:
    """WikiText-2 (raw, train) from the Hub or its cache."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415

    try:
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise QuantizeError("--calib wikitext reads a parquet file: pip install halfbyte[wikitext]") from None
    repository, file = WIKITEXT
    try:
        path = hf_hub_download(repository, file, repo_type="dataset")
    except Exception as error:  # the Hub client raises many kinds; all mean that the text is not there
        raise QuantizeError(
            f"--calib wikitext: cannot fetch {repository} from the Hub ({type(error).__name__}: {error}); "
            "use --calib builtin or a text file"
        ) from error
    return "".join(parquet.read_table(path, columns=["text"])["text"].to_pylist())


def calibration_tokens(text: str, tokenizer: Tokenizer, samples: int, seq_len: int, seed: int) -> torch.Tensor:
    """[samples, seq_len] int64: the text is tokenized as one and cut, nothing is dropped but the rest at its end.

    Each sample begins with what the tokenizer puts before a text (Llama's BOS). If there are more cuts than samples,
    `seed` picks. Raises QuantizeError if there are fewer.
    """
    prefix = tokenizer.encode("")
    body = seq_len - len(prefix)
    if body < 1:
        raise QuantizeError(f"--seq-len {seq_len} leaves no room after the {len(prefix)} tokens that begin each sample")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    cuts = len(tokens) // body
    if cuts < samples:
        raise QuantizeError(
            f"the calibration text has {len(tokens)} tokens, enough for {cuts} samples of {seq_len}, not for "
            f"{samples}: give a longer text, or --samples {max(cuts, 1)}, or a shorter --seq-len"
        )
    chosen = sorted(random.Random(seed).sample(range(cuts), samples))
    return torch.tensor([prefix + tokens[i * body : (i + 1) * body] for i in chosen])
