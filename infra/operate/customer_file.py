"""A CSV file of customers, as an operator imports it, from a program or a spreadsheet."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.operate.customers import Entry
from metering.stores.holders import Customer, Holding
from metering.stores.ledger import Ledger

COLUMNS: Final = ("id", "name", "stripe_customer", "keys")

_DELIMITERS: Final = ",;\t"
"""Spreadsheets write semicolons where the decimal sign is a comma."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How many customers of a file are new, differ from what is in the ledger, or are there; how many keys are new."""

    added: int
    changed: int
    there: int
    keys: int

    @property
    def customers(self) -> int:
        """All of the file."""
        return self.added + self.changed + self.there


def standing(ledger: Ledger, entries: Mapping[int, Entry]) -> Standing:
    """Compare the customers of a file with those of the ledger."""
    before = ledger.holders.customers({entry.id for entry in entries.values()})
    holdings = ledger.holders.of_keys({name for entry in entries.values() for name in entry.keys})
    new = {line: _new_keys(entry, holdings) for line, entry in entries.items()}
    added = [entry for entry in entries.values() if entry.id not in before]
    there = [
        entry
        for line, entry in entries.items()
        if entry.id in before and not new[line] and _is(before[entry.id], entry)
    ]
    return Standing(len(added), len(entries) - len(added) - len(there), len(there), sum(map(len, new.values())))


def _is(customer: Customer, entry: Entry) -> bool:
    return customer.name == entry.name and entry.stripe_customer in ("", customer.stripe_customer)


def _new_keys(entry: Entry, holdings: Mapping[str, Holding]) -> list[str]:
    return [name for name in entry.keys if [h.customer for h in holdings[name].holders[-1:]] != [entry.id]]


def read_csv(path: Path) -> tuple[dict[int, Entry], dict[int, list[str]]]:
    """Read customers from a CSV file with a header line; return them, and what cannot be read, by line.

    Columns: ``id``, ``name``, ``stripe_customer`` (may be empty), ``keys`` (with spaces between; one that
    holds a space stands in quotes). They may be in any order, in any case, and parted by semicolons or tabs. Rows and
    columns that are empty are left out.
    """
    entries: dict[int, Entry] = {}
    problems: dict[int, list[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = _delimiter(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            written = next(reader, [])
            columns = [column.strip().casefold().replace(" ", "_") for column in written]
            while columns[-1:] == [""]:
                columns.pop()
            if wrong := _wrong_columns(columns, written):
                return {}, {1: [wrong]}
            for cells in reader:
                if not any(map(str.strip, cells)):
                    continue
                if not len(columns) <= len(cells) <= len(written) or any(cells[len(columns) :]):
                    problems[reader.line_num] = [f"{len(COLUMNS)} columns are wanted"]
                    continue
                row = dict(zip(columns, cells, strict=False))
                spaced = " ".join(row["keys"].split())
                keys = tuple(next(csv.reader([spaced], delimiter=" ", strict=True), ()))
                entries[reader.line_num] = Entry(row["id"], row["name"], row["stripe_customer"], keys)
        except csv.Error as error:
            problems[reader.line_num] = [f"not CSV: {error}"]
    return entries, problems


def _delimiter(header: str) -> str:
    """Return what parts most columns of a header; a comma if nothing does."""
    return max(_DELIMITERS, key=header.count)


def _wrong_columns(columns: Sequence[str], written: Sequence[str]) -> str:
    """Say what is wrong with the columns of a file, as they are written, or return an empty string."""
    if sorted(columns) == sorted(COLUMNS):
        return ""
    unknown = [name for name, column in zip(written, columns, strict=False) if column not in COLUMNS]
    twice = sorted({column for column in columns if column in COLUMNS and columns.count(column) > 1})
    missing = [column for column in COLUMNS if column not in columns]
    told = {"missing": missing, "unknown": [repr(name) for name in unknown], "twice": twice}
    which = "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
    return f"the columns must be {', '.join(COLUMNS)}; {which if columns else 'got nothing'}"
