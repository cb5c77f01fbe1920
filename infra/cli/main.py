"""The operator's command line: ``metering``."""

import logging
from typing import Final, NoReturn

import typer
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's, which the built-in has nothing in common with
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

import infra.cli.access  # noqa: F401 - its commands are among the customers'
from infra.cli.connect_log import app as connect_log_app
from infra.cli.connections import app as connections_app
from infra.cli.customers import customers_app, keys_app
from infra.cli.doctor import app as doctor_app
from infra.cli.invoice import app as invoice_app
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
from infra.operate.deployment import OPERATOR_KEY, OperatorError
from infra.outputs import MissingOutputError
from metering.stores.table import UnprocessedError
from metering.stripe.client import StripeForbiddenError, StripeRejectedError, StripeUnavailableError


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

_NOT_SIGNED_IN: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}

OTHER_KEY: Final = f"a command that changes something at Stripe takes another key: --operator-key, {OPERATOR_KEY}"


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
        raise SystemExit(ended)
    except typer.TyperException as error:
        _misused(error)
    except (OperatorError, MissingOutputError, StripeUnavailableError, StripeRejectedError, UnprocessedError) as error:
        _fail(*map(str, error.args), *([OTHER_KEY] if isinstance(error, StripeForbiddenError) else []))
    except NoCredentialsError:
        _fail("no AWS credentials are found: sign in with 'aws sso login' or 'aws configure', or use --local")
    except NoRegionError:
        _fail("no AWS Region is set: give --region, or set AWS_DEFAULT_REGION")
    except ProfileNotFound as error:
        _fail(f"{error}: give another --profile")
    except ClientError as error:
        said = error.response["Error"]
        sign_in = ": sign in again, or give another --profile" if said["Code"] in _NOT_SIGNED_IN else ""
        _fail(f"AWS answered {said['Code']} to {error.operation_name}: {said.get('Message', '')}{sign_in}")
    except (ConnectionError, HTTPClientError) as error:
        _fail(f"AWS cannot be reached: {error}: look at the network, the Region and AWS_ENDPOINT_URL")
    except BotoCoreError as error:
        _fail(f"AWS cannot be asked: {error}: look at the profile, the Region and the credentials")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001 - the process's outermost edge
        _fail(f"unexpected {type(error).__name__}: {error}. This is a defect of the program: please report it")


if __name__ == "__main__":
    main()
