"""Signed notes: the example of golang.org/x/mod/sumdb/note, both ways, and that of C2SP signed-note."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from everlog.audit import note
from everlog.audit.note import Signer, Verifier, Witness, cosigners
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
    with pytest.raises(Error, match="expected a key name"):
        Signer.generate(name)


@pytest.mark.parametrize("text", ["no end", "", "tab\there\n"])
def test_a_text_that_cannot_be_in_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(Error, match="line feed"):
        note.sign(text, Signer.parse(SKEY))


class Cosigner:
    """A witness as in C2SP tlog-cosignature, written without the code under test."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self._public = b"\x04" + self._key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(name.encode() + b"\n" + self._public).digest()[:4]
        self.vkey = f"{name}+{self.id.hex()}+{base64.b64encode(self._public).decode()}"

    def line(self, signed: str, time_s: int) -> str:
        """Return its cosignature line for a note."""
        text = signed.rpartition("\n\n")[0] + "\n"
        signature = self._key.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
        data = self.id + time_s.to_bytes(8, "big") + signature
        return f"— {self.name} {base64.b64encode(data).decode()}\n"


W1, W2, W3 = (Cosigner(f"witness.example/w{n}", n) for n in (1, 2, 3))
KEYS = [Witness.parse(one.vkey) for one in (W1, W2, W3)]


def test_cosignatures_are_counted_up_to_a_quorum() -> None:
    both = SIGNED + W1.line(SIGNED, 1_679_315_147) + W2.line(SIGNED, 1_679_315_148)
    found = {W1.name: 1_679_315_147, W2.name: 1_679_315_148}
    assert cosigners(both, KEYS, 2) == cosigners(both, KEYS[:2], 2) == found
    assert cosigners(both, KEYS[1:], 1) == {W2.name: 1_679_315_148}
    assert note.open_note(both, [Verifier.parse(VKEY)]) == TEXT
    with pytest.raises(CorruptionError, match=f"of 3 of 3 witnesses, found 2; missing: {W3.name}"):
        cosigners(both, KEYS, 3)
    with pytest.raises(CorruptionError, match="found 0"):
        cosigners(SIGNED, KEYS, 1)


def test_the_same_witness_counts_once() -> None:
    twice = SIGNED + W1.line(SIGNED, 1) + W1.line(SIGNED, 2)
    with pytest.raises(CorruptionError, match="of 2 of 3 witnesses, found 1"):
        cosigners(twice, KEYS, 2)
    again = Cosigner("witness.example/other-name", 1)
    with pytest.raises(Error, match=r"found the key of witness\.example/other-name twice"):
        cosigners(twice, [*KEYS, Witness.parse(again.vkey)], 2)
    for quorum in (0, 4):
        with pytest.raises(Error, match=f"a quorum of 1 to 3, the number of witnesses given, found {quorum}"):
            cosigners(twice, KEYS, quorum)


def test_a_cosignature_of_another_text_time_or_type_is_refused() -> None:
    line = W1.line(SIGNED, 1_679_315_147)
    other = note.sign("other\n", Signer.generate("EnochRoot"))
    assert cosigners(SIGNED + line, KEYS[:1], 1)
    with pytest.raises(CorruptionError, match="the signature is not that witness's over this text"):
        cosigners(other + line, KEYS[:1], 1)
    data = base64.b64decode(line.split()[2])
    for at in range(4, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        text = f"— {W1.name} {base64.b64encode(changed).decode()}\n"
        with pytest.raises(CorruptionError, match="not that witness's"):
            cosigners(SIGNED + text, KEYS[:1], 1)
    for size in (4 + 8, 4 + 64, len(data) - 1, len(data) + 1):
        text = f"— {W1.name} {base64.b64encode((data + b'x')[:size]).decode()}\n"
        with pytest.raises(CorruptionError, match="not that witness's"):
            cosigners(SIGNED + text, KEYS[:1], 1)
    with pytest.raises(CorruptionError, match="not that witness's"):
        cosigners(SIGNED + W1.line(SIGNED, 1 << 63), KEYS[:1], 1)
    plain = Verifier.parse(VKEY)
    with pytest.raises(Error, match=r"expected a witness key of Ed25519 \(type 04\)"):
        Witness.parse(VKEY)
    with pytest.raises(Error, match=r"expected a verifier key of Ed25519 \(type 01\)"):
        Verifier.parse(W1.vkey)
    log_as_witness = Witness(plain.name, plain.public)
    with pytest.raises(CorruptionError, match="found 0"):
        cosigners(SIGNED, [log_as_witness], 1)


def test_the_example_of_the_specification_has_the_time_that_it_says() -> None:
    signature = base64.b64decode(
        "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
    )
    assert (len(signature), int.from_bytes(signature[4:12], "big")) == (4 + 8 + 64, 1_679_315_147)


def test_a_cosignature_of_litewitness_is_verified() -> None:
    text = "everlog/cb6e78fd-6488-4260-9cf7-c5ea8fabdedb\n652\n95lKHSvy7Hb+FjpIRtKIM+8VTIawT4Tndq26FQ+pqIk=\n"
    lines = (
        "— everlog/cb6e78fd-6488-4260-9cf7-c5ea8fabdedb +aNVCREdI4rRiFeStA6V2ojPAUfsRGI1PxN035++"
        "KmXmjhpbkSAy/gd+PjwBk11hp2TiF6EWL7Nvs6QDglXNVFl0vAc=\n"
        "— witness.example/w1 U9P3dQAAAABrDKFW+SBk6HfEUQ3Srj5tXkWV3KD2n6TUP7UiN6Zclx4QmT8vtNp8EbcikLVC"
        "J1hUdd25XjUB/NPP9K640R3VL5TODQ==\n"
    )
    key = "witness.example/w1+53d3f775+BOdm2p0JwRrBHCg0gxAzS8lk2Vk1oIelJ0Uz63F1r6gO"
    assert cosigners(f"{text}\n{lines}", [Witness.parse(key)], 1) == {"witness.example/w1": 1_795_989_846}
