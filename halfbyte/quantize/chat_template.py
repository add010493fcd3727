"""Puts a chosen chat template into the repository that is written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from halfbyte.checkpoint.writer import json_bytes
from halfbyte.errors import QuantizeError, TokenizerError
from halfbyte.prompts.templates import jinja_template

if TYPE_CHECKING:
    from halfbyte.checkpoint.tokenizer import Tokenizer


def choose_template(tokenizer: Tokenizer, template: str | None) -> Tokenizer:
    """The tokenizer with this template, Jinja or a name, tried on a message; None keeps what it has.

    Raises QuantizeError if the template cannot be rendered.
    """
    if template is None:
        return tokenizer
    chosen = tokenizer.with_chat_template(jinja_template(template, adds_bos=tokenizer.adds_bos))
    try:
        chosen.render_chat([{"role": "user", "content": "Hello"}])
    except TokenizerError as error:
        raise QuantizeError(f"--chat-template does not work on a user's message: {error}") from error
    return chosen


def template_files(files: dict[str, bytes], tokenizer: Tokenizer) -> dict[str, bytes]:
    """A repository's small files with the tokenizer's chat template in the places where programs look for it.

    Templates of other names are left out: they are the source's.
    """
    assert tokenizer.chat_template is not None
    kept = {name: data for name, data in files.items() if not name.startswith("additional_chat_templates/")}
    kept.pop("chat_template.json", None)
    config = json.loads(kept.get("tokenizer_config.json", b"{}"))
    config["chat_template"] = tokenizer.chat_template
    kept["tokenizer_config.json"] = json_bytes(config)
    kept["chat_template.jinja"] = tokenizer.chat_template.encode()
    return kept
