"""What refsr does: each task takes a config and yields small records; none of them prints."""
