"""What `infra/local/stripe/README.md` takes from the table of behaviours; cog puts it there."""

from collections.abc import Iterable, Iterator

from tests.live.stripe_behaviours import BEHAVIOURS, Behaviour, Certainty


def unconfirmed() -> str:
    """Return what Stripe does as far as anybody knows, and what would go wrong if it did otherwise."""
    return _table(
        ("what is built upon", "why it is not certain", "if it is otherwise", "played against"),
        *((fact.says, fact.source, fact.otherwise, fact.where) for fact in _facts(Certainty.UNCONFIRMED)),
    )


def known() -> str:
    """Return what Stripe does by its documents, or as somebody saw."""
    return _table(
        ("what Stripe does", "how sure", "source", "played against"),
        *(
            (fact.says, fact.certainty, fact.source, fact.where)
            for fact in _facts(Certainty.DOCUMENTED, Certainty.OBSERVED)
        ),
    )


def _facts(*certainties: Certainty) -> Iterator[Behaviour]:
    return (fact for fact in BEHAVIOURS.values() if fact.certainty in certainties)


def _table(head: Iterable[str], *rows: Iterable[str]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, ("---",) * 4, *rows)]
    return "\n" + "".join(f"| {line} |\n" for line in lines) + "\n"
