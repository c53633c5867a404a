"""The bench of methods for every test here."""

from bench import classes, texts, tiny_llama

__all__ = ["classes", "texts", "tiny_llama"]
