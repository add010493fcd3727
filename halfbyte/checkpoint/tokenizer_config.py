"""What a repository's small JSON files say about its tokenizer: special tokens, added tokens, chat templates, ends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from halfbyte.errors import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from halfbyte.checkpoint.source import Source

_EXTRA_KEYS = ("additional_special_tokens", "extra_special_tokens")
_TEMPLATE_FOLDER = "additional_chat_templates/"


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """tokenizer_config.json together with the files that share its work."""

    special_tokens: dict[str, AddedToken]  # by role: "bos_token", "eos_token", ...
    extra_special_tokens: list[AddedToken]  # special without a role of their own
    added_tokens: list[AddedToken]  # in the order of their ids
    chat_templates: dict[str, str]  # by name; the only or usual one is "default"
    clean_up_tokenization_spaces: bool
    eos_token_ids: frozenset[int]  # from generation_config.json and config.json
    bos_token_id: int | None  # from the same, for repositories that name no bos_token

    @classmethod
    def from_source(cls, source: Source) -> TokenizerConfig:
        """Read the files. Raises TokenizerError naming the file and the field that cannot be used."""
        config = json_file(source, "tokenizer_config.json")
        decoder = config.get("added_tokens_decoder")
        tokens = dict(config)
        if decoder is None:  # where it is given, it replaces special_tokens_map.json
            tokens |= json_file(source, "special_tokens_map.json")
        special_texts = {_text(value) for key, value in tokens.items() if key.endswith("_token")}
        added = _added_tokens(decoder, source.spec) if decoder else _older_added_tokens(source, special_texts)
        by_text = {token.content: token for token in added}
        roles = {
            key: value for key, value in tokens.items() if key.endswith("_token") and isinstance(value, str | dict)
        }
        special = {
            role: _token(value, f"{source.spec}: tokenizer_config.json: {role}") for role, value in roles.items()
        }
        generation = [("generation_config.json", json_file(source, "generation_config.json"))]
        generation.append(("config.json", source.config))
        bos_ids = [i for name, file in generation for i in token_ids(file, "bos_token_id", f"{source.spec}: {name}")]
        return cls(
            special_tokens={role: by_text.get(token.content, token) for role, token in special.items()},
            extra_special_tokens=list(_extra_tokens(tokens, source.spec)),
            added_tokens=added,
            chat_templates=_chat_templates(source, config),
            clean_up_tokenization_spaces=bool(config.get("clean_up_tokenization_spaces", False)),
            eos_token_ids=frozenset(
                i for name, file in generation for i in token_ids(file, "eos_token_id", f"{source.spec}: {name}")
            ),
            bos_token_id=bos_ids[0] if bos_ids else None,
        )


def json_file(source: Source, name: str) -> dict[str, Any]:
    """A small JSON file of a source, {} if there is none. Raises TokenizerError if it is not a JSON object."""
    data = source.file(name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{source.spec}: {name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{source.spec}: {name} holds a {type(value).__name__}, not a JSON object")
    return value


def token_ids(config: dict[str, Any], key: str, where: str) -> list[int]:
    """Token ids that a config gives as a number or a list of them."""
    value = config.get(key)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for i in ids:
        if not isinstance(i, int) or isinstance(i, bool) or i < 0:
            raise TokenizerError(f"{where}: {key} must be a token id or a list of them, not {value!r:.60}")
    return ids


def _token(value: Any, where: str) -> AddedToken:
    """A special token as configs write it: its text, or a dict with the text under "content"."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise TokenizerError(f'{where} must be a string or an object with "content", not {value!r:.60}')
    flags = {key: bool(value[key]) for key in ("single_word", "lstrip", "rstrip", "normalized") if key in value}
    return AddedToken(value["content"], special=bool(value.get("special", True)), **flags)


def _added_tokens(decoder: Any, spec: str) -> list[AddedToken]:
    where = f"{spec}: tokenizer_config.json: added_tokens_decoder"
    if decoder is None:
        return []
    if not isinstance(decoder, dict) or not all(key.isdecimal() for key in decoder):
        raise TokenizerError(f"{where} must be an object with token ids as keys")
    ordered = sorted(decoder.items(), key=lambda item: int(item[0]))
    return [
        _token({"special": False, **value} if isinstance(value, dict) else value, f"{where}[{key}]")
        for key, value in ordered
    ]


def _older_added_tokens(source: Source, special: set[Any]) -> list[AddedToken]:
    """added_tokens.json, ids by text, from before configs had added_tokens_decoder."""
    ids = json_file(source, "added_tokens.json")
    if not all(isinstance(i, int) for i in ids.values()):
        raise TokenizerError(f"{source.spec}: added_tokens.json must give each token a number")
    texts = sorted(ids, key=lambda text: int(ids[text]))
    return [AddedToken(text, normalized=text not in special, special=text in special) for text in texts]


def _text(token: Any) -> Any:
    """The text of a special token in either of its forms."""
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def _extra_tokens(tokens: dict[str, Any], spec: str) -> Iterable[AddedToken]:
    for key in _EXTRA_KEYS:
        value = tokens.get(key) or []
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, dict | list):
            raise TokenizerError(f"{spec}: tokenizer_config.json: {key} must be a list of tokens, not {value!r:.60}")
        yield from (_token(item, f"{spec}: tokenizer_config.json: {key}") for item in items)


def _chat_templates(source: Source, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name. Files of their own go before the config's entry; the processor's file comes last."""
    names = {"default": "chat_template.jinja"}
    for name in source.files():
        if name.startswith(_TEMPLATE_FOLDER) and name.endswith(".jinja"):
            names[name.removeprefix(_TEMPLATE_FOLDER).removesuffix(".jinja")] = name
    texts = {key: source.file(name) for key, name in names.items()}
    found = {key: _utf8(text, names[key], source.spec) for key, text in texts.items() if text is not None}
    return (
        found
        or _named_templates(config.get("chat_template"), f"{source.spec}: tokenizer_config.json")
        or _named_templates(
            json_file(source, "chat_template.json").get("chat_template"), f"{source.spec}: chat_template.json"
        )
    )


def _named_templates(entry: Any, where: str) -> dict[str, str]:
    """A `chat_template` entry: one template, or a list of {"name", "template"}."""
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {"default": entry}
    if isinstance(entry, list) and all(isinstance(item, dict) for item in entry):
        templates = {item.get("name"): item.get("template") for item in entry}
    else:
        templates = entry
    if not isinstance(templates, dict) or not all(isinstance(t, str) for pair in templates.items() for t in pair):
        raise TokenizerError(f'{where}: chat_template must be a string or a list of objects with "name" and "template"')
    return templates


def _utf8(data: bytes, name: str, spec: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{spec}: {name} is not UTF-8 text ({error})") from error
