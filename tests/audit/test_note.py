"""Signed notes: the example of golang.org/x/mod/sumdb/note, both ways, and that of C2SP signed-note."""

from __future__ import annotations

import pytest

from everlog.audit import note
from everlog.audit.note import Signer, Verifier
from everlog.store.errors import CorruptionError, Error

VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
SIGNED = (
    TEXT + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUg"
    "YN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_is_signed_as_the_reference_does() -> None:
    signer = Signer.parse(SKEY)
    assert str(signer.verifier) == VKEY
    assert signer.secret() == SKEY
    assert note.sign(TEXT, signer) == SIGNED


def test_a_note_of_the_reference_is_opened() -> None:
    assert note.open_note(SIGNED, [Verifier.parse(VKEY)]) == TEXT


def test_signatures_of_others_are_passed_over() -> None:
    other = Signer.generate("EnochRoot")
    both = note.sign(TEXT, other) + SIGNED.removeprefix(TEXT + "\n")
    for verifier in (Verifier.parse(VKEY), other.verifier):
        assert note.open_note(both, [verifier]) == TEXT
    with pytest.raises(CorruptionError, match=r"signed by EnochRoot.*found signatures of PeterNeumann"):
        note.open_note(SIGNED, [other.verifier])


def test_an_example_of_the_specification_is_split() -> None:
    poem = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    line = (
        "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0x"
        "McXxj99ihAQwaqP3ZekRwNtIc=\n"
    )
    text, signatures = note.split(f"{poem}\n{line}")
    assert text == poem
    assert [(name, len(signature)) for name, signature in signatures] == [("quasimodo.example/salvatore", 68)]


def test_no_bit_of_a_note_can_be_changed() -> None:
    verifier = Verifier.parse(VKEY)
    raw = SIGNED.encode()
    for at in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(CorruptionError):
            note.open_note(changed.decode(errors="surrogateescape"), [verifier])


@pytest.mark.parametrize(
    "key",
    [
        VKEY[1:],
        VKEY[:-1],
        VKEY.replace("c74f", "c74e"),
        VKEY.replace("+AR", "+ZR"),
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "",
        "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_damaged_verifier_key_is_refused(key: str) -> None:
    with pytest.raises(Error, match="expected a verifier key"):
        Verifier.parse(key)


@pytest.mark.parametrize("key", ["secret", SKEY[:-4], SKEY.replace("c74f", "c74e"), VKEY])
def test_a_damaged_signer_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(Error, match=r"key\.txt: expected a signer key") as caught:
        Signer.parse(key, "key.txt")
    assert key not in str(caught.value)


def test_a_private_key_that_is_given_for_a_public_one_is_not_shown() -> None:
    for key in (SKEY, f" {SKEY}\n", f"my key: {SKEY}"):
        with pytest.raises(Error, match="found a private key") as caught:
            Verifier.parse(key)
        assert SKEY[-20:] not in str(caught.value)
    with pytest.raises(Error, match="expected a verifier key") as caught:
        Verifier.parse("x" * 100_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "a\x01"])
def test_a_name_with_spaces_is_refused(name: str) -> None:
    with pytest.raises(Error, match="name of a key"):
        Signer.generate(name)


@pytest.mark.parametrize("text", ["no end", "", "tab\there\n"])
def test_a_text_that_cannot_be_in_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(Error, match="line feed"):
        note.sign(text, Signer.parse(SKEY))
