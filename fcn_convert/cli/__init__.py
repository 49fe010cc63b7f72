"""The command line: arguments in, exit status out; nothing else. One file a command.

A command's file is loaded whatever is asked for, to name its options; so it imports what it works
with inside its function, and --help and --version stay quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fcn_convert import __version__
from fcn_convert.cli import batch, check_spec, code, convert, init, inspect, report, schema, verify
from fcn_convert.cli.streams import stdout

app = typer.Typer(
    name="fcn-convert",
    help="Rewrites a trained classifier's Dense weights as convolutions, and proves that they "
    "compute the same.",
    epilog="Exit status: 0 done and verified; 1 a check failed, or with --strict there is a "
    "warning; 2 the input, the spec or the usage is unusable; 70 a bug; 128 + n ended by signal n.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        with stdout() as stream:
            stream.write(f"fcn-convert {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# In the order in which --help lists them.
app.command()(convert.convert)
app.command()(verify.verify)
app.command()(inspect.inspect)
app.command()(init.init)
app.command()(code.code)
app.command()(batch.batch)
app.add_typer(report.app)
app.command("check-spec")(check_spec.check_spec)
app.command()(schema.schema)
