"""Callers: who calls, in whose name, and who of them may have keys.

    token       ─▶ its name        ─▶ the actor of what the call commits, proven
    certificate ─▶ its common name ─▶ the same, where no token has a name
    no name     ─▶ who the call says, claimed, unless that is somebody with a token

A program that commits rows for its own users shows its own token and says theirs; the server is
told of such programs when it starts. Nobody decides of migrations in another's name.

Keys of people are given to tokens that the server was told of, by name, and so to nobody where there
are none: who can connect to a port of this machine is not known by that.

Invariants
  (1) what the log says of somebody who has a token was called with that token, or by a program
      that was allowed to say so;
  (2) who has keys has a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from everlog.rpc.http2.grpc import Context
from everlog.store.errors import AccessError, OpenError
from everlog.store.rocks.files import read_secret
from everlog.store.tx.transaction import Actor, Proof, proof_of

_TOKEN = re.compile(r"[!-~]+")


class Callers:
    """Names of tokens, which of them act for others, and which may have keys. Raises OpenError for one that
    is none."""

    def __init__(
        self,
        names: Iterable[str] = (),
        acting: Iterable[str] = (),
        keys_for: Iterable[str] = (),
        *,
        certified: bool = False,
    ) -> None:
        """`certified`: callers show certificates, so that a name need not be that of a token."""
        self._names, self._acting = frozenset(names) - {""}, frozenset(acting)
        self._keys_for = frozenset(keys_for)
        for option, said in (("--acts-for-others", self._acting), ("--keys-for", self._keys_for)):
            for name in sorted(said - self._names) if not certified else ():
                known = ", ".join(sorted(self._names)) or "none"
                raise OpenError(
                    f"{option}: expected the name of a token, found {name!r}; the tokens are: {known}",
                    actor=name,
                )

    def who(self, context: Context, claimed: str) -> str:
        """Who calls; empty: nobody says. Raises AccessError if the call says another name than its
        token has."""
        name = context.who
        if claimed and claimed != name:
            if name:
                raise AccessError(
                    f"the call says it is of {claimed}, its {_shown(name)} is that of {name}; leave the actor"
                    " out",
                    actor=name,
                    claimed=claimed,
                )
            if claimed in self._names:
                raise AccessError(
                    f"the call says it is of {claimed}, and does not show the token of {claimed}; show that,"
                    " or say another actor",
                    claimed=claimed,
                )
        return name or claimed

    def actor(self, context: Context, claimed: str) -> str:
        """In whose name rows are written. Raises AccessError as `who`, but for those who act for
        others."""
        if claimed and claimed != context.who and context.who in self._acting:
            return Actor(claimed, Proof.DELEGATED)
        return self.who(context, claimed)

    def with_keys(self, context: Context) -> str:
        """Who calls, and may have the keys of people. Raises AccessError for everybody else."""
        name = context.who
        if name not in self._keys_for:
            who = f"the token of {name}" if name else "a caller without a token that has a name"
            how = f"--keys-for {name}" if name else "--tokens FILE --keys-for NAME"
            raise AccessError(
                f"{who} is not given the keys of people, and so cannot follow tables whose rows are sealed;"
                f" start the server with {how}, or follow the other tables by name (--table)",
                actor=name,
            )
        return name


def read_tokens(path: str | Path, unnamed: str = "") -> dict[str, str]:
    """The tokens in a file by the names of who shows them: a line `NAME TOKEN` each. Lines that begin with #
    are comments. `unnamed` is the additional token without a name.

    Raises OpenError for a file that others can read and, with the number of the line and without the token,
    for a line that is none, and for
    what would take a name from its token: a name or a token that is in two lines, or the unnamed one.
    """
    raw = read_secret(Path(path), "the file of tokens")
    found, lines = dict[str, str](), dict[str, int]()
    for number, one in enumerate(raw.split(b"\n"), 1):
        try:
            named = _token_in(one)
        except ValueError as error:
            raise OpenError(
                f"{path}:{number}: expected a name and a token, as `ann Qm5…`, found {error}"
            ) from None
        if named is None:
            continue
        name, token = named
        if token == unnamed:
            raise OpenError(
                f"{path}:{number}: expected a name and a token of its own, found the token of --token, or"
                f" EVERLOG_TOKEN: its callers would not be {name}"
            )
        for what, key in ((f"the name {name}", name), ("the token", f" {token}")):
            if key in lines:
                raise OpenError(
                    f"{path}:{number}: expected a name and a token that are in no other line, found {what} of"
                    f" line {lines[key]}"
                )
            lines[key] = number
        found[name] = token
    if not found:
        raise OpenError(f"{path}: expected a line with a name and a token, as `ann Qm5…`, found none")
    return found


def check_tokens(unnamed: str, tokens: Mapping[str, str]) -> None:
    """Raises OpenError for tokens that cannot be shown, or do not tell who shows them."""
    if unnamed and not _TOKEN.fullmatch(unnamed):
        raise OpenError("expected a token of visible ASCII characters, found one with others, or spaces")
    seen = {unnamed} - {""}
    for name, token in tokens.items():
        if not name.strip() or not name.isprintable():
            raise OpenError(f"expected the name of a token, found {name!r}")
        if not _TOKEN.fullmatch(token):
            raise OpenError(
                f"expected the token of {name} to be visible ASCII characters, found others or none"
            )
        if token in seen:
            raise OpenError(f"the token of {name} is that of another as well; give each a token of its own")
        seen.add(token)


def _token_in(line: bytes) -> tuple[str, str] | None:
    """Return the name and the token of a line, None for a blank line or a comment. Raises ValueError."""
    if line.startswith(b"\xef\xbb\xbf"):
        raise ValueError("a byte order mark; save the file without it")
    if line.endswith(b"\r"):
        raise ValueError("a carriage return at the end; save the file with line ends of Unix")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("bytes that are no UTF-8") from None
    if not text or text.startswith("#"):
        return None
    if text != text.strip():
        raise ValueError("whitespace at the beginning or the end")
    words = re.split("[ \t]+", text)
    if len(words) != 2:
        raise ValueError(f"{len(words)} word{'s' if len(words) > 1 else ''}")
    name, token = words
    if not name.isprintable() or not _TOKEN.fullmatch(token) or token.startswith("#"):
        raise ValueError("characters that are not visible, or a token that is not ASCII or begins with #")
    return name, token


def _shown(name: str) -> str:
    return "certificate" if proof_of(name) == Proof.CERTIFICATE else "token"
