"""Bytes on disk: where models come from, the forms they are stored in, their config and their tokenizer."""
