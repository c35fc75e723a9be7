"""Shows a stream of records: lines and progress bars for people, one JSON object a line for programs."""

from refsr_cli.console.display import Display

__all__ = ["Display"]
