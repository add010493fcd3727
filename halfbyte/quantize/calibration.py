"""Calibration tokens: which text, and how it is cut into samples."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from halfbyte.errors import QuantizeError, TokenizerError

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer

HELD_OUT = 4  # samples
WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1/train-00000-of-00001.parquet")


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Samples to learn from and samples that only the result is measured on, and what became of the text."""

    tokens: torch.Tensor  # [samples, seq_len] int64
    held_out: torch.Tensor  # [0 .. HELD_OUT, seq_len]
    texts: int  # packed one behind the other
    text_tokens: int  # in all of them


def calibration_texts(calib: str, tokenizer: Tokenizer) -> list[str]:
    """The texts that `--calib` names. Raises QuantizeError if they cannot be had."""
    if calib == "builtin":
        return [builtin_text()]
    if calib == "wikitext":
        return [wikitext()]
    path = Path(calib)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise QuantizeError(f"--calib {calib}: no such file (and not one of builtin, wikitext)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizeError(f"--calib {calib}: not a readable UTF-8 text: {error}") from None
    return json_lines(text, calib, tokenizer) if path.suffix == ".jsonl" else [text]


def json_lines(text: str, name: str, tokenizer: Tokenizer) -> list[str]:
    """The texts of a .jsonl: each line an object with "text", or with "messages" to render as a chat.

    Raises QuantizeError naming the line.
    """
    texts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise QuantizeError(f"--calib {name}, line {number}: not JSON ({error})") from None
        if isinstance(entry, dict) and isinstance(entry.get("text"), str):
            texts.append(entry["text"])
        elif isinstance(entry, dict) and isinstance(entry.get("messages"), list):
            try:
                texts.append(tokenizer.render_chat(entry["messages"], add_generation_prompt=False))
            except TokenizerError as error:
                raise QuantizeError(f"--calib {name}, line {number}: {error}") from None
        else:
            raise QuantizeError(f'--calib {name}, line {number}: an object with "text" or "messages" is wanted')
    return texts


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


def calibration_data(texts: list[str], tokenizer: Tokenizer, samples: int, seq_len: int, seed: int) -> CalibrationData:
    """Pack the texts one behind the other, an end token between them, and cut them into samples of equal length.

    Nothing is dropped for being too short or too long, only what is left at the very end. Each sample begins with what
    the tokenizer puts before a text (Llama's BOS). If there are more cuts than samples, `seed` picks, and up to
    HELD_OUT of the others are held out. Raises QuantizeError if there are fewer.
    """
    prefix = tokenizer.encode("")
    body = seq_len - len(prefix)
    if body < 1:
        raise QuantizeError(f"--seq-len {seq_len} leaves no room after the {len(prefix)} tokens that begin each sample")
    between = sorted(tokenizer.eos_token_ids)[:1]
    tokens: list[int] = []
    for text in texts:
        tokens += (between if tokens else []) + tokenizer.encode(text, add_special_tokens=False)
    cuts = len(tokens) // body
    if cuts < samples:
        raise QuantizeError(
            f"the calibration text has {len(tokens)} tokens, enough for {cuts} samples of {seq_len}, not for "
            f"{samples}: give a longer text, or --samples {max(cuts, 1)}, or a shorter --seq-len"
        )
    order = random.Random(seed).sample(range(cuts), min(cuts, samples + HELD_OUT))

    def cut(numbers: list[int]) -> torch.Tensor:
        rows = [prefix + tokens[i * body : (i + 1) * body] for i in sorted(numbers)]
        return torch.tensor(rows, dtype=torch.int64).view(-1, seq_len)

    return CalibrationData(cut(order[:samples]), cut(order[samples:]), len(texts), len(tokens))
