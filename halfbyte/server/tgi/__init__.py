"""text-generation-inference's routes."""
