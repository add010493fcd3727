"""The end of a stream that failed."""

from __future__ import annotations

import json

from halfbyte.server.problems import openai_words, problem_of
from halfbyte.server.sse import DONE


def failed_stream(error: Exception) -> bytes:
    """An event that holds the error, which OpenAI's client raises, and the end."""
    return f"data: {json.dumps(openai_words(problem_of(error)))}\n\n".encode() + DONE
