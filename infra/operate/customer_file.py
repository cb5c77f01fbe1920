"""A CSV file of customers, as an operator imports it."""

import csv
from pathlib import Path
from typing import Final

from infra.operate.customers import Entry

COLUMNS: Final = ("id", "name", "stripe_customer", "keys")


def read_csv(path: Path) -> tuple[dict[int, Entry], dict[int, list[str]]]:
    """Read customers from a CSV file with a header line; return them, and what cannot be read, by line.

    Columns: ``id``, ``name``, ``stripe_customer`` (may be empty), ``keys`` (with spaces between; one that
    holds a space stands in quotes).
    """
    entries: dict[int, Entry] = {}
    problems: dict[int, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restkey="too many", strict=True)
        try:
            columns = reader.fieldnames or []
            if sorted(columns) != sorted(COLUMNS):
                return {}, {1: [f"the columns must be {', '.join(COLUMNS)}; got {', '.join(columns) or 'nothing'}"]}
            for row in reader:
                if "too many" in row or None in row.values():
                    problems[reader.line_num] = [f"{len(COLUMNS)} columns are wanted"]
                    continue
                spaced = " ".join(row["keys"].split())
                keys = tuple(next(csv.reader([spaced], delimiter=" ", strict=True), ()))
                entries[reader.line_num] = Entry(row["id"], row["name"], row["stripe_customer"], keys)
        except csv.Error as error:
            problems[reader.line_num] = [f"not CSV: {error}"]
    return entries, problems
