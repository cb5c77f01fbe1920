"""What the last lines of a log group would be: counted, set aside, or nobody's business. Reads only, and few.

At most :data:`MOST_LINES` lines by :data:`MOST_ANSWERS` answers, of the last day, the latest first: CloudWatch Logs
answers with the oldest of what is asked for, so that ever longer times are asked for, back from now.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from infra.operate.connections.usage_log import TERM
from infra.operate.deployment import Deployment
from metering.model.access_log import Partly, Rejected
from metering.model.metrics import Metric
from metering.model.subjects import subject_of_source
from metering.model.usage_lines import Report, UsageLineReader

MOST_LINES: Final = 1_000
MOST_ANSWERS: Final = 20
DAY: Final = timedelta(days=1)
_BACK: Final = (timedelta(minutes=10), timedelta(hours=2), DAY)


@dataclass(slots=True)
class Sample:
    """What became of lines: ``reports`` counts the lines by whose they are (``customer#acme``) and by metric.

    A line that only some metrics can read is among ``counted`` and among ``set_aside``. ``is_all`` says that the last
    day has no more lines with the word.
    """

    counted: int = 0
    set_aside: int = 0
    nobodys: int = 0
    is_all: bool = True
    reports: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> Mapping[str, Any]:
        """Return it for programs."""
        return {
            "counted": self.counted,
            "set_aside": self.set_aside,
            "nobodys": self.nobodys,
            "is_all": self.is_all,
            "reports": [
                {"whose": whose, "metric": metric, "lines": lines}
                for (whose, metric), lines in self.reports.most_common()
            ],
            "reasons": dict(self.reasons.most_common()),
        }


def sample(deployment: Deployment, log_group: str, metrics: Sequence[Metric], now: datetime) -> Sample:
    """Read a log group's last lines as ``record_usage`` would."""
    read = Sample()
    reader = UsageLineReader(now, metrics)
    for line in _lines(deployment, log_group, now):
        if line is None:
            read.is_all = False
            continue
        found = reader.read(line)
        match found:
            case None:
                read.nobodys += 1
            case Rejected():
                _set_aside(read, found)
            case Partly():
                _set_aside(read, found.bad)
                _count(read, found.good)
            case _:
                _count(read, found)
    return read


def _count(read: Sample, report: Report) -> None:
    read.counted += 1
    whose = str(subject_of_source(report.source))
    read.reports.update((whose, metric) for metric in report.amounts)


def _set_aside(read: Sample, bad: Rejected) -> None:
    read.set_aside += 1
    read.reasons[bad.reason] += 1


def _lines(deployment: Deployment, log_group: str, now: datetime) -> Iterator[str | None]:
    """Yield the last lines that have the word, and None where there are more than may be read."""
    logs, end = deployment.client("logs"), int(now.timestamp() * 1000)
    answers, lines, until = 0, 0, end
    for back in _BACK:
        asked: dict[str, Any] = {"startTime": end - back // timedelta(milliseconds=1), "endTime": until - 1}
        while True:
            if answers == MOST_ANSWERS:
                yield None
                return
            answer = logs.filter_log_events(logGroupName=log_group, filterPattern=TERM, limit=MOST_LINES, **asked)
            answers += 1
            for event in answer["events"]:
                if lines == MOST_LINES:
                    yield None
                    return
                lines += 1
                yield event["message"]
            if "nextToken" not in answer:
                break
            asked["nextToken"] = answer["nextToken"]
        until = asked["startTime"]
