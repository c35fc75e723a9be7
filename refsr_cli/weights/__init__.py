"""Trained weights: where they are found, and what they may be made of."""
