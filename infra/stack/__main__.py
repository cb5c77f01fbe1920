"""``python -m infra.stack app.py``: an app as the CDK CLI runs it by cdk.json, whose errors are sentences.

What is declared wrongly is said in one; anything else that goes wrong still has its traceback.
"""

import runpy
import sys


def main() -> None:
    """Run the app that is named; exit with 1 and one sentence where it declares what cannot be."""
    _, app = sys.argv
    try:
        runpy.run_path(app, run_name="__main__")
    except (ValueError, TypeError, NameError, ImportError) as error:
        sentence = _said(error, app)
        if not sentence:
            raise
        sys.exit(f"error: {sentence}")


def _said(error: Exception, app: str) -> str:
    """Say what the app has wrong, and in which line if that is where it was noticed; nothing if it is not the app."""
    last = error.__traceback__
    while last and last.tb_next:
        last = last.tb_next
    if last and last.tb_frame.f_code.co_filename == app:
        return f"{app}, line {last.tb_lineno}: {error}"
    is_refusal = last and str(last.tb_frame.f_globals["__name__"]).startswith(("infra.stack.", "metering."))
    return f"{app}: {error}" if is_refusal and isinstance(error, ValueError) else ""


if __name__ == "__main__":
    main()
