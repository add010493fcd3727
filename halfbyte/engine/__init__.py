"""From requests to tokens: sampling, the key-value cache, the decode loop, and `LLM`, its face for Python programs."""
