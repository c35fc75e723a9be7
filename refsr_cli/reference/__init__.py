"""What reference-based nets share: references, where each pixel is found in them, and what is taken from there."""
