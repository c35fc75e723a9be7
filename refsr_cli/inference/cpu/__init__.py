"""What makes nets fast on a CPU."""
