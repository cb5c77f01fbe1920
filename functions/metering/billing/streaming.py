"""Streaming: many customers' pending totals → Stripe, up to a hundred of them in one call of its event stream."""

from collections.abc import Iterator, Mapping, Sequence

from metering.billing.sending import CHANGED, Answers, Posted, Sender
from metering.model.usage_row import Posting, State, UsageRow
from metering.stores.aws import in_pieces, side_by_side
from metering.stores.table import TABLE_ERRORS, RowChangedError
from metering.stripe.meters import STREAM_BATCH


def post_together(sender: Sender, rows: Sequence[tuple[UsageRow, str]]) -> Iterator[Posted]:
    """Post rows together, each given with its Stripe customer; what Stripe finds wrong with one it reports later."""
    to_send = [sending for sending in rows if sender.may_send(*sending)]
    others = [sending for sending in rows if not sender.may_send(*sending)]
    yield from (posted for posted, _ in side_by_side(lambda row: sender.post_row(*row), others))
    departed = []
    for saved in side_by_side(lambda sending: _save_departed(sender, *sending), to_send):
        if isinstance(saved, Posted):
            yield saved
        else:
            departed.append(saved)
    answers = _send(sender, [posting for _, postings in departed for posting in postings.items()])
    yield from side_by_side(lambda there: _save_answers(sender, *there, answers), departed)


def _save_departed(
    sender: Sender, row: UsageRow, stripe_customer: str
) -> tuple[UsageRow, Mapping[str, Posting]] | Posted:
    """Write down what departs; return the row with its postings, or that it is left."""
    departed, postings = sender.depart(row, stripe_customer)
    try:
        return (sender.ledger.rows.save(departed) if postings else row), postings
    except RowChangedError:
        return Posted.left([row.hour], CHANGED)
    except TABLE_ERRORS as error:
        return Posted.failed([row.hour], error)


def _send(sender: Sender, postings: Sequence[tuple[str, Posting]]) -> Answers:
    """Send postings by the way that each is written down for; return what became of each, by identifier."""
    streamed = [posting for posting in postings if posting[1].streamed]
    groups = [*in_pieces(streamed, STREAM_BATCH), *([posting] for posting in postings if not posting[1].streamed)]
    return {name: answer for answers in side_by_side(sender.send, groups) for name, answer in answers.items()}


def _save_answers(sender: Sender, row: UsageRow, postings: Mapping[str, Posting], answers: Answers) -> Posted:
    waiting = row.in_state(State.PENDING)
    try:
        return sender.told(sender.save_answers(row, postings, answers), waiting)
    except RowChangedError:
        return Posted.left([row.hour], CHANGED)
    except TABLE_ERRORS as error:
        return Posted.failed([row.hour], error)
