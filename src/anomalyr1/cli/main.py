"""The verbs of the command line, each a function in a file beside this one.

Exit codes: 0 all well, 1 the user's input, 2 some images failed, 3 the environment, 130 stopped by Ctrl-C.
Errors are one or two lines, without a traceback.

To list the verbs loads neither the records nor any library but Typer: each verb imports what it needs itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from anomalyr1.cli import (
    calibrate,
    data,
    doctor,
    evaluate,
    inspect,
    learn,
    parity,
    report,
    reproduce,
    runs,
    train,
)
from anomalyr1.cli.cores import take_free_cores
from anomalyr1.cli.terminal import INTERRUPTED, OK, SETUP_ERROR, USER_ERROR, say
from anomalyr1.errors import InputError, SetupError, Stopped
from anomalyr1.version import __version__

PROGRAM = "anomalyr1"
COMPUTING = ("demo", "evaluate", "inspect", "learn", "parity", "reproduce", "train")
"""The verbs that ask or teach a network."""
TRAIN = ("accelerate", "datasets", "peft", "tensorboard", "trl")
"""What the extra `train` installs."""


def in_one_line(verb: Callable[..., int]) -> str:
    """What a verb does, from its docstring, however that is wrapped."""
    return " ".join((verb.__doc__ or "").split())


class PlainFlags:
    """Help in which an option without a value shows none: `--fast`, not `--fast <bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options and arguments of a verb."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of Typer's class
        for param in params:
            if getattr(param, "is_bool_flag", False):
                param.metavar = ""
        return params


class Verb(PlainFlags, TyperCommand):
    """A verb."""


class VerbGroup(PlainFlags, TyperGroup):
    """A group of verbs."""


app = typer.Typer(cls=VerbGroup, no_args_is_help=True, pretty_exceptions_enable=False)
data_verbs = typer.Typer(
    cls=VerbGroup,
    help="Check, split, look at and export data sets; SPEC is e.g. mvtec:FOLDER (docs/guide/data.md).",
    no_args_is_help=True,
)
for data_verb in (data.check, data.split, data.stats, data.export, data.show, data.extract):
    data_verbs.command(cls=Verb, help=in_one_line(data_verb))(data_verb)
for verb in (  # as they are needed: learn, look, judge, decide; teach; measure; look into it; try
    learn.learn,
    inspect.inspect,
    report.report,
    calibrate.calibrate,
    train.train,
    evaluate.evaluate,
    evaluate.compare,
    *runs.VERBS,
    parity.parity,
    report.convert,
    reproduce.demo,
    reproduce.reproduce,
    doctor.doctor,
):
    app.command(cls=Verb, help=in_one_line(verb))(verb)
app.add_typer(data_verbs, name="data")


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"anomalyr1 {__version__}")
        raise typer.Exit


@app.callback()
def anomalyr1(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Inspect parts with a vision-language model that reasons, answers and points at the defect."""


def _fail(message: str, code: int) -> int:
    """Say what is wrong, line by line, and give back the exit code."""
    for line in f"error: {message}".splitlines():
        say(line, err=True)
    return code


def main() -> None:
    """Run a verb and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a letter shows its escape
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, to those who write them
    if sys.argv[1:2] and sys.argv[1] in COMPUTING:
        take_free_cores()
    try:
        code = app(standalone_mode=False, prog_name=PROGRAM)
    except typer.TyperException as error:
        message = error.format_message()
        context = getattr(error, "ctx", None)  # of the verb that was typed
        help_line = f"Try: {context.command_path if context else PROGRAM} --help"
        # Without a verb there is no message: the help was shown
        code = _fail(f"{message} {help_line}", USER_ERROR) if message else USER_ERROR
    except (InputError, OSError) as error:
        code = _fail(str(error), USER_ERROR)
    except SetupError as error:
        code = _fail(str(error), SETUP_ERROR)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN:
            raise
        install = 'pip install ".[train]" in the checkout of anomalyr1'
        code = _fail(f"training needs {error.name}, which is not installed: {install}", SETUP_ERROR)
    except Stopped as stop:
        say(str(stop), err=True)
        code = INTERRUPTED
    else:
        if code == INTERRUPTED:  # what Typer makes of Ctrl-C elsewhere
            say("stopped", err=True)
    sys.exit(code or OK)
