"""`refsr models`."""

from typing import Annotated

import typer

from refsr_cli.cli.options import Json, Scale, given, reporting, run
from refsr_cli.config import ShowConfig
from refsr_cli.console import Display

app = typer.Typer(name="models", help="List the nets and the weights there are for them.", invoke_without_command=True)


@app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the nets and the weights there are for them."""
    if context.invoked_subcommand:
        return
    from refsr_cli.tasks.catalog import list_models

    run(Display(as_json=as_json), list_models)


@app.command()
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="NAME", help="Net, see `refsr models`.")],
    scale: Scale = ShowConfig.scale,
    numbers: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another number of the net, such as blocks=8; repeatable."),
    ] = None,
    depth: Annotated[int, typer.Option(help="How many layers of modules in modules are listed.")] = ShowConfig.depth,
    size: Annotated[int, typer.Option(help="Side of the picture that is sent through.")] = ShowConfig.size,
    as_json: Json = False,
) -> None:
    """Show the layers of a net: shapes, parameters, multiplications."""
    display = Display(as_json=as_json)
    with reporting(display):
        config = ShowConfig(**given(context))
    from refsr_cli.tasks.catalog import show_model as task

    run(display, lambda: task(config))
