"""Whether everything computes on a device what it computes on a CPU, and how fast: for a machine lent for minutes."""
