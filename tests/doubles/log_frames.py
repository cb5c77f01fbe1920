"""What loggers, runtimes and log routers make of an object that they are given, or of its JSON text."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

Frame = Callable[[Any], str]

LAMBDA: Final = "2026-11-22T05:17:00.123Z\t5f1c1f5e-0000-4000-8000-000000000000\tINFO\t"
"""How Lambda's Node begins a line of text."""


def text_of(value: Any) -> str:
    """Return what a program gives to its logger: a text as it is, an object as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def quoted(value: Any) -> str:
    """Return a text between quotes, as Go's text handlers and logfmt write it."""
    return json.dumps(text_of(value), ensure_ascii=False)


FRAMES: Final[Mapping[str, Frame]] = {
    "print": text_of,
    "print in compact JSON": lambda value: json.dumps(value, separators=(",", ":")),
    "print of indented JSON": lambda value: json.dumps(value, indent=2),
    "print of JSON indented by tabs": lambda value: json.dumps(value, indent="\t") + "\r\n",
    "a byte order mark": lambda value: f"\ufeff{text_of(value)}",
    "JSON text of JSON text": quoted,
    "a list": lambda value: json.dumps([value]),
    "Lambda, Node, text": lambda value: f"{LAMBDA}{text_of(value)}\n",
    "Lambda, Node, text with a label": lambda value: f"{LAMBDA}usage {text_of(value)}\n",
    "Lambda, Python's logging, text": lambda value: f"[INFO]\t2026-11-22T05:17:00.123Z\t5f1c\t{text_of(value)}\n\n",
    "Lambda, JSON, an object": lambda value: json.dumps({"level": "INFO", "message": value, "requestId": "5f1c"}),
    "Lambda, JSON, text": lambda value: json.dumps({"timestamp": "2026", "level": "INFO", "message": text_of(value)}),
    "Lambda, .NET, JSON": lambda value: json.dumps({"message": text_of(value)}).replace('\\"', "\\u0022"),
    "Lambda's telemetry": lambda value: json.dumps({"type": "function", "record": LAMBDA + text_of(value)}),
    "Powertools": lambda value: json.dumps({"level": "INFO", "location": "work:7", "message": value, "service": "a"}),
    "pino": lambda value: json.dumps({"level": 30, "time": 1795324620000, "pid": 8, "msg": text_of(value)}),
    "winston": lambda value: json.dumps({"level": "info", "message": value, "metadata": {"usage": "high"}}),
    "log4j": lambda value: json.dumps({"instant": {"epochSecond": 1795324620}, "message": text_of(value), "id": 7}),
    "slog": lambda value: json.dumps({"time": "2026-11-22T05:17:00Z", "level": "INFO", "msg": "x", "data": value}),
    "slog, text": lambda value: f"time=2026-11-22T05:17:00Z level=INFO msg={quoted(value)} job=job-17",
    "logrus": lambda value: f'time="2026-11-22T05:17:00Z" level=info msg={quoted(value)}',
    "zap, console": lambda value: f"2026-11-22T05:17:00.123Z\tINFO\tjobs/main.go:27\tdone\t{text_of(value)}",
    "Rust's tracing": lambda value: f"2026-11-22T05:17:00Z  INFO jobs{{id=7}}: {text_of(value)} elapsed=3ms",
    "Elastic's": lambda value: json.dumps({"@timestamp": "2026", "log.level": "info", "message": text_of(value)}),
    "GELF": lambda value: json.dumps({"version": "1.1", "short_message": text_of(value), "_usage": 7}),
    "OpenTelemetry": lambda value: json.dumps({"body": {"stringValue": text_of(value)}, "severityText": "INFO"}),
    "syslog": lambda value: f'<14>1 2026-11-22T05:17:00Z host jobs 8 - [id@1 usage="x"] @cee: {text_of(value)}',
    "FireLens": lambda value: json.dumps({"container_id": "c1", "log": text_of(value), "source": "stdout"}),
    "Docker": lambda value: json.dumps({"log": text_of(value) + "\n", "stream": "stdout", "time": "2026"}),
    "CRI": lambda value: f"2026-11-22T05:17:00.123456789Z stdout F {text_of(value)}",
    "Kubernetes": lambda value: json.dumps({"log": f"2026 stdout F {text_of(value)}", "kubernetes": {"pod": "a"}}),
    "Kubernetes, merged": lambda value: json.dumps({"log": text_of(value), "log_processed": value}),
    "a subscription's": lambda value: json.dumps({"logEvents": [{"id": "1", "message": LAMBDA + text_of(value)}]}),
    "a colour": lambda value: f"\x1b[32minfo\x1b[39m: {text_of(value)}\x1b[0m",
    "text on both sides": lambda value: f'{{ok}} [INFO] said "hi" {text_of(value)} took {{7}} ms, {{}} left}}',
}
"""By what writes it. As published in: aws/aws-lambda-dotnet#1747, FormidableLabs/pino-lambda#51,
KyleRoss/node-lambda-log#11, amazon-ecs-firelens-examples#20, fluent/fluent-bit#5656, envoyproxy/envoy#38974, and the
loggers' own documentation."""

MERGING: Final[Mapping[str, Frame]] = {
    "pino": lambda value: json.dumps({"level": 30, "time": 1795324620000, **value, "msg": "done"}),
    "Powertools": lambda value: json.dumps({"level": "INFO", "message": "done", **value, "service": "jobs"}),
}
"""What puts an object's fields among its own."""

NAMED: Final[Mapping[str, Frame]] = {
    "usage as JSON text": lambda value: json.dumps({"usage": json.dumps(value)}),
    "usage in a list": lambda value: json.dumps({"usage": [value]}),
    "logfmt": lambda value: f"level=info usage={json.dumps(value)}",
    "logfmt, quoted": lambda value: f"level=info usage={quoted(value)} took=7ms",
    "a label": lambda value: f"{LAMBDA}usage: {json.dumps(value)}",
    "a group of that name": lambda value: json.dumps({"usage": {"usage": value, "level": "INFO"}}),
}
"""What is given the usage object itself, under its name."""
