"""The command line ``moetune``: its commands, and the one place that catches errors.

Results go to stdout, progress and errors to stderr. ``tuner.cli.endings`` has the exit codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from tuner.cli import endings
from tuner.cli.menu import Menu
from tuner.errors import MoetuneError
from tuner.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``argv`` is the process's unless given."""
    with endings.ended_by_signals():
        return endings.written(_run(argv))


def _run(argv: Sequence[str] | None) -> int:
    try:
        code = _moetune.main(args=argv, prog_name="moetune", standalone_mode=False)
    except MoetuneError as error:
        return endings.refuse(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:  # a group alone: its help, as it is
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return endings.refuse(_usage(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        by = error.__cause__ if isinstance(error, click.Abort) else error
        return endings.refuse("stopped", endings.exit_code(by))
    except endings.OF_THE_SYSTEM as error:
        return endings.failed(error)
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    return f"{message} Try `{context.command_path} --help`." if context else message


@click.group(
    cls=Menu, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def _moetune() -> None:
    """Tune Mixture-of-Experts layers in Mojo for a machine, and run them from Python.

    MODEL is a preset's name (`moetune models` lists them), the path of a Hugging Face config.json (or of a
    folder that holds one), or none: then --hidden, --expert-dim, --experts and --top-k describe the layer.

    A first hour: `moetune doctor`, `moetune tune MODEL --time 2m`, `moetune best MODEL --tokens 16`.
    """
