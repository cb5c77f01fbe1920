"""Subjects: what an id may be, and how it is spelled where it becomes part of a key."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.model.subjects import (
    Subject,
    customer,
    is_id,
    is_name,
    is_printable,
    key,
    key_of_source,
    short_id,
    source_of,
    source_of_customer,
    source_of_key,
    subject_of_source,
)

IDS = st.text(min_size=1, max_size=128).filter(is_id) | st.text("a#~!%@2$ \"&'()\U0001f600", min_size=1).filter(is_id)
PRINTABLE = 974_170
SUBJECTS = st.builds(customer, IDS) | st.builds(key, IDS)


@pytest.mark.parametrize(
    "name",
    [
        "a1b2c3d4e5",
        "00000000-0000-4000-8000-000000000000",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "Ab3dEfGh1jKlMn0pQrStUvWxYz123456@clients",
        "us-east-1:00000000-0000-4000-8000-000000000000",
        "acme.com",
        "waad|Zm9v/bar+baz==",
        "https://accounts.example/users/7",
        "Acme Ltd",
        "k" * 128,
        "\U0001f600" * 128,
        "株式会社",
        "--",
        "~",
        "@",
        "#",
    ],
)
def test_whatever_identity_providers_give_is_an_id(name: str) -> None:
    """Auth0's users and machines, Cognito's identities and users, a domain, a URL, a name."""
    assert is_id(name)


@pytest.mark.parametrize(
    "name", ["", "-", " a", "a ", "a\n", "a\tb", "a\0", "a\u202eb", "a\u200bb", "\ud800", "k" * 129, 7, None, ["a"]]
)
def test_what_cannot_be_seen_or_stands_for_none_is_no_id(name: object) -> None:
    """The access log writes ``-`` for a request without one."""
    assert not is_id(name)


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "Lab \U0001f469\u200d\U0001f52c",
        "\u260e\ufe0f GmbH",
        "\u0915\u094d\u200d\u0937",
        "\u682a\u5f0f\u4f1a\u793e\u3000\u5c71\u7530",
        "O'Neil",
    ],
)
def test_a_name_may_hold_joiners_and_any_space(name: str) -> None:
    """Persian, emoji made of several, a variation selector, Hindi, and a Japanese space."""
    assert is_name(name, 200)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\u2066b", "a\u200b", "n" * 201])
def test_a_name_is_one_line_that_turns_nothing_around(name: str) -> None:
    """I8: it is printed in terminals, and put on pages."""
    assert not is_name(name, 200)


def test_what_is_an_id_is_the_same_in_every_version_of_python() -> None:
    """I5: functions and commands may run on two of them, whose tables of Unicode differ.

    So the numbers stand here. The signs are of Unicode 14, 15, 15.1 and 16, of none yet, and formats of 12 and 15.
    """
    signs = [chr(number) for number in range(0x110000)]
    assert sum(map(is_printable, signs)) == PRINTABLE
    assert sum(is_id(sign) for sign in signs) == PRINTABLE - 2  # without the space and "-"
    assert sum(is_name(sign, 1) for sign in signs) == PRINTABLE + 1  # with the joiners, without the space
    assert [is_id(sign) for sign in "\U0001fae0\U0001fae8\u2ffc\U0001fae9\U0003fffd\U00013430\U0001343f"] == [
        *[True] * 5,
        *[False] * 2,
    ]


def test_no_sign_that_this_python_knows_for_unseen_is_in_an_id() -> None:
    """I8: if a newer one knows more of them, they are to be looked at, and not taken over."""
    categories = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}
    unseen = {chr(number) for number in range(0x110000) if unicodedata.category(chr(number)) in categories} - {" "}
    assert {sign for sign in unseen if is_printable(sign)} == set()
    beyond = {sign for sign in map(chr, range(0x110000)) if not is_printable(sign)} - unseen
    assert {unicodedata.category(sign) for sign in beyond} <= {"Cn"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a1b2c3d4e5", "a1b2c3d4e5"),
        ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000"),
        ("us-east-1:00000000", "us-east-1:00000000"),
        ("auth0|5f7c", "auth0|5f7c"),
        ("x@clients", "x%40clients"),
        ("a b#1", "a%20b%231"),
        ("%20", "%2520"),
    ],
)
def test_a_source_is_an_id_with_a_few_signs_escaped(name: str, source: str) -> None:
    """An API key's id and a UUID are spelled as they are."""
    assert source_of_key(name) == source
    assert source_of_customer(name) == f"@{source}"


@given(SUBJECTS)
def test_a_source_is_read_back(subject: Subject) -> None:
    """As is what stands for a subject in the ledger and in marks."""
    assert subject_of_source(source_of(subject)) == subject
    assert Subject.parse(str(subject)) == subject
    assert key_of_source(source_of(subject)) == (subject.id if subject.kind == "key" else "")


@given(SUBJECTS, SUBJECTS, st.sampled_from(["0", "255", "max#tokens"]))
def test_no_item_of_one_source_lies_among_those_of_another(one: Subject, other: Subject, rest: str) -> None:
    """I6: counters are read by ranges, from ``<source>#`` to ``<source>#~``, and cut at ``#``."""
    mine, theirs = source_of(one), source_of(other)
    assert (f"{mine}#" <= f"{theirs}#{rest}" <= f"{mine}#~") is (one == other)
    assert f"{theirs}#{rest}".partition("#")[0] == theirs
    if mine < theirs:
        assert f"{mine}#~" < f"{theirs}#"


@given(SUBJECTS)
def test_the_longest_id_fits_into_a_sort_key(subject: Subject) -> None:
    """DynamoDB takes 1,024 bytes (Developer Guide, "Constraints in Amazon DynamoDB")."""
    assert len(f"{source_of(subject)}#max#{'m' * 32}".encode()) < 1024


def test_a_plain_id_is_short_and_any_other_is_hashed() -> None:
    """So that an identifier at Stripe keeps within 100 ASCII characters, none of which parts it."""
    assert short_id("acme-2_b") == "acme-2_b"
    assert short_id("acme.com") == "~1194228da8fdbdeefd261bd7b6595cfd"
    assert short_id("c" * 40) == "c" * 40
    assert len(short_id("c" * 41)) == len(short_id("\U0001f600" * 128)) == 33


def test_no_id_has_the_short_id_of_another() -> None:
    """I6: an id that looks like a hash is hashed."""
    assert short_id(short_id("acme.com")) != short_id("acme.com")
