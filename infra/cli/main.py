"""The operator's command line: ``metering``."""

import logging
from typing import Final, NoReturn

import typer

import infra.cli.access  # noqa: F401 - its commands are among the customers'
from infra.cli.connect_log import app as connect_log_app
from infra.cli.connections import app as connections_app
from infra.cli.customers import customers_app
from infra.cli.doctor import app as doctor_app
from infra.cli.invoice import app as invoice_app
from infra.cli.keys import keys_app
from infra.cli.limits import limits_app
from infra.cli.link import portal_app
from infra.cli.local import app as local_app
from infra.cli.posting import app as posting_app
from infra.cli.recount import app as recount_app
from infra.cli.request import app as request_app
from infra.cli.restore import app as restore_app
from infra.cli.set_aside import set_aside_app
from infra.cli.shared import err
from infra.cli.stripe import stripe_app
from infra.cli.top import app as top_app
from infra.cli.usage import app as usage_app

app = typer.Typer(
    help="Usage-based billing for APIs behind Amazon API Gateway: customers, usage, closing, Stripe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(local_app)
app.add_typer(customers_app, name="customers")
app.add_typer(keys_app, name="keys")
app.add_typer(portal_app, name="portal")
app.add_typer(limits_app, name="limits")
app.add_typer(usage_app)
app.add_typer(top_app)
app.add_typer(connections_app)
app.add_typer(connect_log_app)
app.add_typer(doctor_app)
app.add_typer(recount_app)
app.add_typer(request_app)
app.add_typer(invoice_app)
app.add_typer(posting_app)
app.add_typer(restore_app)
app.add_typer(set_aside_app, name="set-aside")
app.add_typer(stripe_app, name="stripe")

_UNREAD: Final = logging.NullHandler()
"""Where goes what the functions' code logs: it is for their logs, and no handler at all is a line on stderr."""


def _fail(sentence: str, *more: str) -> NoReturn:
    err.print(f"error: {sentence}", *more, sep="\n", style="red")
    raise SystemExit(1)


def _misused(error: typer.TyperException) -> NoReturn:
    """Say how the command line was used wrongly; a group without a command has shown its help by now."""
    if error.format_message():
        vars(error).update(message=_wanted(error.__cause__) or error.message)
        said = error.format_message().removeprefix("Invalid value: ").rstrip(".")
        err.print(f"error: {said[0].lower()}{said[1:]}", style="red")
        if context := getattr(error, "ctx", None):
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
        "float_parsing": "a number",
    }
    return f"wanted {wanted.get(first['type'], first['msg'])}, got {first['input']!r}"


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit code 1, wrong use is 2."""
    logging.getLogger().addHandler(_UNREAD)
    try:
        ended = app(prog_name="metering", standalone_mode=False)  # also when Python runs it by the name of a module
    except typer.TyperException as error:
        _misused(error)
    except (KeyboardInterrupt, typer.Abort):  # the second while something is asked
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        from infra.cli.errors import told  # noqa: PLC0415 - it knows the errors of all SDKs, which help needs not

        _fail(*told(error))
    raise SystemExit(ended)


if __name__ == "__main__":
    main()
