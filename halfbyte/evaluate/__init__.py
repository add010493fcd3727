"""How good a model's weights are: perplexity, and the distance to a reference."""
