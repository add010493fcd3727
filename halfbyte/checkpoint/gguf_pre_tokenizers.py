"""How byte-level BPE vocabularies cut text into words before merging, by the id that GGUF files name them with."""

from __future__ import annotations

from typing import Any, NamedTuple

from halfbyte.errors import TokenizerError


class PreTokenizer(NamedTuple):
    """What tokenizer.json says where a GGUF file has only an id.

    `ignore_merges`: a whole word of the vocabulary is taken as it is. `add_bos` holds where the file does not say.
    """

    steps: tuple[dict[str, Any], ...]
    ignore_merges: bool = False
    add_bos: bool = False
    normalizer: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The `pre_tokenizer` entry of tokenizer.json."""
        return self.steps[0] if len(self.steps) == 1 else {"type": "Sequence", "pretokenizers": list(self.steps)}


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokenizer that an id stands for. Raises TokenizerError for one that is not known."""
    if name not in _PRE_TOKENIZERS:
        supported = ", ".join(sorted(_PRE_TOKENIZERS))
        raise TokenizerError(
            f"pre-tokenizer {name!r:.60} (tokenizer.ggml.pre) is not supported; supported are {supported}"
        )
    return _PRE_TOKENIZERS[name]


def pre_tokenizer_name(state: dict[str, Any]) -> str | None:
    """The id of what a tokenizer.json does before merging, or None if GGUF has none for it.

    state: the whole of tokenizer.json. The usual name comes first where several mean the same.
    """
    wanted = (_plain_steps(state.get("pre_tokenizer")), state.get("normalizer"))
    names = [*_USUAL, *(name for name in sorted(_PRE_TOKENIZERS) if name not in _USUAL)]
    same = [n for n in names if wanted == (_plain_steps(_PRE_TOKENIZERS[n].to_json()), _PRE_TOKENIZERS[n].normalizer)]
    ignores = bool(state.get("model", {}).get("ignore_merges"))
    return next((name for name in same if _PRE_TOKENIZERS[name].ignore_merges == ignores), None)


def _plain_steps(step: Any) -> list[dict[str, Any]]:
    """The steps one after another, without the fields that do not change the words."""
    if not isinstance(step, dict):
        return []
    if step.get("type") == "Sequence":
        return [plain for inner in step.get("pretokenizers", []) for plain in _plain_steps(inner)]
    return [{key: value for key, value in step.items() if key != "trim_offsets" and value is not False}]


def _split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = _byte_level(use_regex=False)
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)

_GPT2 = PreTokenizer((_byte_level(use_regex=True),))
_SINGLE_DIGITS = PreTokenizer((_DIGITS, _byte_level(use_regex=True)))
_LLAMA3 = PreTokenizer((_split(_LLAMA3_WORDS), _BYTES), ignore_merges=True, add_bos=True)
_QWEN2 = PreTokenizer((_split(_QWEN2_WORDS), _BYTES), normalizer={"type": "NFC"})
_TEKKEN = PreTokenizer((_split(_TEKKEN_WORDS), _BYTES), ignore_merges=True, add_bos=True)
_DEEPSEEK_CODER = PreTokenizer(
    (
        _split(r"[\r\n]"),
        _split(r"\s?\p{L}+"),
        _split(r"\s?\p{P}+"),
        _split("[一-龥\u0800-一가-퟿]+"),
        _DIGITS,
        _BYTES,
    )
)
# What llama.cpp does for files that name no pre-tokenizer or "default".
_DEFAULT = PreTokenizer(
    (_split(r"[\p{P}\$\+<=>\^~\|]+"), _split(_GPT2_WORDS), _split(r"\p{N}+"), _split("[0-9][0-9][0-9]"), _BYTES)
)

_PRE_TOKENIZERS = {
    "codeshell": _SINGLE_DIGITS,
    "command-r": _SINGLE_DIGITS,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-r1-qwen": _QWEN2,
    "default": _DEFAULT,
    "exaone": _SINGLE_DIGITS,
    "falcon3": _LLAMA3,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "megrez": _QWEN2,
    "minerva-7b": _SINGLE_DIGITS,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "phi-2": _GPT2,
    "qwen2": _QWEN2,
    "refact": _SINGLE_DIGITS,
    "smaug-bpe": _LLAMA3._replace(ignore_merges=False, add_bos=False),
    "smollm": _SINGLE_DIGITS,
    "starcoder": _SINGLE_DIGITS,
    "tekken": _TEKKEN,
}
_USUAL = ("gpt-2", "llama-bpe", "qwen2", "smollm", "tekken")
