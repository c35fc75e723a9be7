"""Comparing speeds: who takes part, how they are measured, and the report."""
