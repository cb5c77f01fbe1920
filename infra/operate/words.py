"""Numbers in sentences."""

import re
from typing import Final

_ES: Final = re.compile(r"(s|x|ch|sh)$")


def count(number: int, one: str, many: str = "", *, more: bool = False) -> str:
    """Return a number of things in words: "1 customer", "2,000 customers", "1,000 or more batches" if there are more.

    ``many`` is for what is not made by adding to its end: "1 customer's hour waits", "2 customers' hours wait".
    """
    is_one = number == 1 and not more
    return f"{number:,}{' or more' * more} {one if is_one else many or _plural(one)}"


def _plural(one: str) -> str:
    if _ES.search(one):
        return f"{one}es"
    return re.sub(r"([^aeiou])y$", r"\1ie", one) + "s"
