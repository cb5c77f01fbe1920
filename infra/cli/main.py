"""The operator's command line: ``metering``. Only the commands that are called are loaded."""

import logging
import os
import re
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, Final, NamedTuple, NoReturn

import typer

from infra.cli.stopping import READ, course
from infra.cli.terminal import err, out


class Word(NamedTuple):
    """A command or a group: what it is for, where it is (a module here, a name in it), and what else fills a group."""

    purpose: str
    place: str
    also: tuple[str, ...] = ()


WORDS: Final[dict[str, dict[str, Word]]] = {
    "See it": {
        "usage": Word("What was used, with its state in the ledger.", "usage:app"),
        "top": Word("The busiest customers and keys, and money an hour.", "top:app"),
        "request": Word("What became of one request: billed or not, and why.", "request:app"),
        "doctor": Word("Whether the deployment is well, and what to do if not.", "doctor:app"),
    },
    "Customers": {
        "customers": Word(
            "Customers, their Stripe customers and their API keys.",
            "customers:customers_app",
            also=("access", "limits", "link"),
        ),
        "keys": Word("API keys: made, billed to nobody, or given by mistake.", "keys:keys_app"),
        "limits": Word("How much customers may use, and why keys are closed.", "limits:limits_app"),
        "portal": Word("The customers' own view of their usage.", "link:portal_app"),
    },
    "Money": {
        "invoice": Word("Stripe's preview of a customer's running invoice.", "invoice:app"),
        "posting": Word("Whether usage is posted to Stripe: off until you turn it on.", "posting:app"),
        "close": Word("Close the hours that are due now, as the schedule would.", "usage:app"),
        "reconcile": Word("Compare counters, ledger and Stripe, and post what differs.", "posting:app"),
        "adjust": Word("Correct what is billed for an hour.", "adjusting:app"),
        "adjustments": Word("What was corrected by hand, and taking it back.", "adjusting:app"),
        "unbilled": Word("Usage that Stripe has and nobody pays.", "usage:app"),
        "rejected": Word("Usage that Stripe rejected, and another try.", "posting:app"),
        "held": Word("Differences of invoices that wait for a person.", "held:held_app"),
    },
    "Mend": {
        "set-aside": Word("Usage that could not be counted, and the way back in.", "set_aside:set_aside_app"),
        "recount": Word("Count the raw archive again, and compare.", "recount:app"),
        "restore": Word("Make the ledger what a restored table holds.", "restore:app"),
    },
    "Set up": {
        "demo": Word("The whole way on this machine, from requests to a bill.", "local:app"),
        "local": Word("AWS and Stripe on this machine, to try things on.", "local:app"),
        "stripe": Word("The connection to Stripe; meters, products and prices.", "stripe:stripe_app"),
        "connect": Word("Meter a stage that is live, whoever deployed it.", "connections:app"),
        "connect-log": Word("Meter the usage lines in a log group of your own.", "connect_log:app"),
        "connections": Word("The stages and log groups that are connected.", "connections:app"),
        "disconnect": Word("End the metering of a stage or a log group.", "connections:app"),
    },
}
"""The commands by what a person wants, as help shows them."""

STOPPED: Final = 130
"""How a program ends that Ctrl-C stops, as shells and typer have it."""

_UNREAD: Final = logging.NullHandler()
"""Where goes what the functions' code logs: it is for their logs, and no handler at all is a line on stderr."""


def command_line(called: str | None = None) -> typer.Typer:
    """Return the command line with what is needed for a word that is called; with all that there is for None."""
    words = {name: (panel, word) for panel, among in WORDS.items() for name, word in among.items()}
    root = typer.Typer(
        help="Usage-based billing for APIs behind Amazon API Gateway: customers, usage, closing, Stripe.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_options)
    needed = {word.place for name, (_, word) in words.items() if called in (None, name)}
    loaded = set[str]()
    for name, (panel, word) in words.items():
        if word.place not in needed:
            root.command(name, help=word.purpose, rich_help_panel=panel)(_not_called)
        elif word.place not in loaded:
            loaded.add(word.place)
            _load(root, name, word)
    return root


def _load(root: typer.Typer, name: str, word: Word) -> None:
    module, attribute = word.place.split(":")
    for filling in word.also:
        import_module(f"infra.cli.{filling}")
    commands = getattr(import_module(f"infra.cli.{module}"), attribute)
    _join_lines(commands)
    if attribute == "app":
        root.add_typer(commands)
    else:
        root.add_typer(commands, name=name)


def _join_lines(commands: typer.Typer) -> None:
    """Let each paragraph of help be one line, which a terminal of any width breaks where it ends."""
    for command in commands.registered_commands:
        paragraphs = str(command.callback.__doc__).split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for below in commands.registered_groups:
        if below.typer_instance:
            _join_lines(below.typer_instance)


def _not_called() -> None:
    """Stand for a command that is only named."""


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"metering {version('serverless-metering')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print this version, and end.")
    ] = False,
) -> None:
    """Declare the options of no command."""


def _called(arguments: list[str]) -> str:
    """Return the word that is called; where a shell asks how one goes on, it is in the shell's own variables."""
    if "_METERING_COMPLETE" in os.environ:
        arguments = (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]
    return next((word for word in arguments if not word.startswith("-")), "")


def _misused(error: typer.TyperException) -> NoReturn:
    """Say how the command line was used wrongly; a group without a command has shown its help by now."""
    if error.format_message():
        vars(error).update(message=_wanted(error.__cause__) or error.message)
        said = error.format_message().removeprefix("Invalid value: ").rstrip(".")
        said = re.sub(r"^Got unexpected extra argument\(s\) \((.*)\)$", r"got more than is wanted here: \1", said)
        err.print(f"error: {said[0].lower()}{said[1:]}", style="red")
        context: Any = getattr(error, "ctx", None)
        if context:
            err.print(" ".join(context.get_usage().split()), f"'{context.command_path} --help' says more", sep="\n")
    raise SystemExit(error.exit_code)


def _wanted(invalid: BaseException | None) -> str:
    """Return what was got and what is wanted, where pydantic did not understand a value: typer reads by it."""
    from pydantic import ValidationError  # noqa: PLC0415 - typer loads it when it reads a value, and help needs none

    if not isinstance(invalid, ValidationError):
        return ""
    first = invalid.errors()[0]
    told = first.get("ctx", {})
    if first["type"] == "value_error":
        return str(told["error"])
    wanted = {
        "greater_than_equal": f"{told.get('ge')} or more",
        "less_than_equal": f"{told.get('le')} or less",
        "int_parsing": "a whole number",
        "int_parsing_size": "a whole number",
        "float_parsing": "a number",
    }
    return f"wanted {wanted.get(first['type'], first['msg'])}, got {first['input']!r}"


def _fail(sentence: str, *more: str) -> NoReturn:
    err.print(f"error: {sentence}", *more, sep="\n", style="red")
    raise SystemExit(1)


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit code 1, wrong use is 2, Ctrl-C 130."""
    logging.getLogger().addHandler(_UNREAD)
    course.begin(way_on="")
    try:
        commands = command_line(_called(sys.argv[1:]))
        ended = commands(prog_name="metering", standalone_mode=False)  # also when Python runs it by a module's name
    except typer.TyperException as error:
        _misused(error)
    except typer.Abort as error:
        ended = STOPPED
        if not error.__cause__:  # while something was asked, which is before anything is done
            course.way_on = READ
    except KeyboardInterrupt:
        ended = STOPPED
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        from infra.cli.errors import told  # noqa: PLC0415 - it knows the errors of all SDKs, which help needs not

        _fail(*told(error))
    if ended == STOPPED:
        err.print(course.sentence())
    raise SystemExit(ended)


if __name__ == "__main__":
    main()
