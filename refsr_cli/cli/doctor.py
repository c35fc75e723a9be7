"""`refsr doctor`."""

from refsr_cli.cli.options import Json, run
from refsr_cli.console import Display


def doctor(as_json: Json = False) -> None:
    """Say what refsr has to work with on this machine, and whether it works; for reports of faults."""
    from refsr_cli.tasks.doctor import examine

    run(Display(as_json=as_json), examine)
