"""Artifacts of lower precision: int8 and float16, what they lose, and which of them a bundle gets."""
