"""How a picture was degraded before it came here, and what is done about it."""
