"""OpenAI's API, as its official client speaks it."""
