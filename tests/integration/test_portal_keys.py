"""The portal's keys in Secrets Manager: rotation, and how often the secret is read."""

from dataclasses import dataclass, field
from typing import Any, cast

import boto3
import pytest

from metering.portal.tokens import MAX_AGE_S, PATIENCE_S, PortalKeys, key_id

FIRST, SECOND, THIRD = ("1" * 64, "2" * 64, "3" * 64)


@dataclass
class Vault:
    """A secret with a first value, read at a time that the test sets."""

    client: Any
    now: float = 1000.0
    reads: list[str] = field(default_factory=list)

    def put(self, key: str) -> None:
        """Put another value."""
        self.client.put_secret_value(SecretId="portal", SecretString=key)

    def keys(self) -> PortalKeys:
        """Return the keys as a new process reads them."""
        return PortalKeys(cast("Any", self.client), "portal", lambda: self.now)


@pytest.fixture
def vault(aws: None) -> Vault:  # noqa: ARG001 - asked for what it does
    """A secret that was never rotated."""
    client: Any = boto3.client("secretsmanager")
    client.create_secret(Name="portal", SecretString=FIRST)
    made = Vault(client)
    client.before.append(lambda name, asked: made.reads.append(str(asked)) if name == "GetSecretValue" else None)
    return made


def test_the_current_and_the_previous_key_verify(vault: Vault) -> None:
    """And no third one: a key that got known is out after two rotations."""
    for number, key in enumerate((FIRST, SECOND, THIRD)):
        if number:
            vault.put(key)
        keys = vault.keys()
        known = {name for name in (FIRST, SECOND, THIRD) if keys.of(key_id(name)) == name}
        assert keys.current() == key
        assert known == {(FIRST, SECOND, THIRD)[n] for n in (number - 1, number) if n >= 0}


def test_keys_are_kept_for_five_minutes(vault: Vault) -> None:
    """One read of each version for all tokens of that time."""
    keys = vault.keys()
    for _ in range(3):
        keys.of(key_id(FIRST))
        vault.now += 1
    assert len(vault.reads) == 2
    vault.now += MAX_AGE_S
    keys.of(key_id(FIRST))
    assert len(vault.reads) == 4


def test_nothing_is_signed_with_a_key_that_was_ended(vault: Vault) -> None:
    """I7: a process that has signed before sees the rotation within ten seconds."""
    keys = vault.keys()
    assert keys.current() == FIRST
    vault.put(SECOND)
    vault.put(THIRD)
    vault.now += PATIENCE_S - 1
    assert keys.current() == FIRST
    vault.now += 1
    assert keys.current() == THIRD
    assert keys.of(key_id(FIRST)) is None


def test_a_new_key_is_known_at_once_to_who_sees_its_token(vault: Vault) -> None:
    """And an unknown id makes for one more read in ten seconds, whoever sends how many."""
    keys = vault.keys()
    assert keys.current() == FIRST
    vault.put(SECOND)
    vault.now += PATIENCE_S
    assert keys.of(key_id(SECOND)) == SECOND
    vault.reads.clear()
    for number in range(100):
        assert keys.of(f"{number:08x}") is None
    assert vault.reads == []
    vault.now += PATIENCE_S
    assert keys.of("ffffffff") is None
    assert len(vault.reads) == 2


@pytest.mark.parametrize("key", ["short", "x" * 47])
def test_a_key_that_could_be_guessed_is_refused(vault: Vault, key: str) -> None:
    """I7: it would let anyone sign."""
    vault.put(key)
    with pytest.raises(ValueError, match="at least 48 characters"):
        vault.keys().current()


def test_a_previous_key_that_could_be_guessed_verifies_nothing(vault: Vault) -> None:
    """Also after it was mended."""
    vault.put("short")
    vault.put(SECOND)
    assert vault.keys().of(key_id("short")) is None
