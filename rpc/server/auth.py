"""Auth: the identity of a caller, acting for others, and permission to receive keys.

    token       ─▶ its name        ─▶ the actor of the call's commits, proven
    certificate ─▶ its common name ─▶ the same, of calls without a token
    no name     ─▶ the actor in the request, claimed, unless that is the name of a token

A program that commits for its own users sends its own token and names the user; the server's configuration
lists such programs. Decisions about migrations are never made for others.

Keys of people are released to tokens that the configuration names, and so to nobody without tokens: a
connection to a local port identifies nobody.

Invariants
  (1) a commit whose actor has a token was made with that token, or by a program that may act for others;
  (2) every holder of keys has a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from everlog.rpc.address import TOKEN
from everlog.rpc.http2.grpc import Context
from everlog.store.environment import read_secret
from everlog.store.errors import AccessError, OpenError
from everlog.store.tx.transaction import Actor, Proof, proof_of


class Auth:
    """Names of tokens, those that act for others, and those that may have keys. Raises OpenError for an
    unknown name."""

    def __init__(
        self,
        names: Iterable[str] = (),
        acting: Iterable[str] = (),
        keys_for: Iterable[str] = (),
        *,
        certified: bool = False,
    ) -> None:
        """`certified`: callers present certificates, so a name need not be that of a token."""
        self._names, self._acting = frozenset(names) - {""}, frozenset(acting)
        self._keys_for = frozenset(keys_for)
        for option, said in (("--acts-for-others", self._acting), ("--keys-for", self._keys_for)):
            for name in sorted(said - self._names) if not certified else ():
                known = ", ".join(sorted(self._names)) or "none"
                raise OpenError(
                    f"{option}: expected the name of a token, found {name!r}; the tokens are: {known}",
                    actor=name,
                )

    @property
    def configured(self) -> frozenset[str]:
        """The names that mean something to the server's configuration."""
        return self._names | self._acting | self._keys_for

    def who(self, context: Context, claimed: str) -> str:
        """Return the caller's name; empty if there is none. Raises AccessError if the request names another
        actor than its token."""
        name = context.who
        if claimed and claimed != name:
            if name:
                raise AccessError(
                    f"the request names {claimed} as actor, its {_shown(name)} is that of {name}; leave the"
                    " actor out",
                    actor=name,
                    claimed=claimed,
                )
            if claimed in self._names:
                raise AccessError(
                    f"the request names {claimed} as actor, without the token of {claimed}; send that token,"
                    " or name another actor",
                    claimed=claimed,
                )
        return name or claimed

    def actor(self, context: Context, claimed: str) -> str:
        """Return the actor of rows that the call writes. Raises AccessError as `who`, except for programs
        that act for others."""
        if claimed and claimed != context.who and context.who in self._acting:
            return Actor(claimed, Proof.DELEGATED)
        return self.who(context, claimed)

    def with_keys(self, context: Context) -> str:
        """Return the name of a caller that may have the keys of people. Raises AccessError for others."""
        name = context.who
        if name not in self._keys_for:
            who = f"the token of {name}" if name else "a caller without a named token"
            how = f"--keys-for {name}" if name else "--tokens FILE --keys-for NAME"
            raise AccessError(
                f"{who} may not have the keys of people, and so cannot follow tables whose rows are sealed;"
                f" start the server with {how}, or follow the other tables by name (--table)",
                actor=name,
            )
        return name


class TokensFile(NamedTuple):
    """The tokens of a file by name, and the roles of names that have any there."""

    tokens: dict[str, str]
    roles: dict[str, tuple[str, ...]]


def read_tokens(path: str | Path, unnamed: str = "") -> TokensFile:
    """Return the tokens and roles in a file: one line `NAME TOKEN` or `NAME TOKEN ROLE,ROLE` each. Lines that
    begin with # are comments. `unnamed` is the additional token without a name.

    Raises OpenError for a file that others can read; for an invalid line, with its number and without the
    token; and for a name or token that occurs twice or equals the unnamed token, because then a token would
    not identify its name.
    """
    raw = read_secret(Path(path), "the file of tokens")
    found, lines = TokensFile({}, {}), dict[str, int]()
    for number, one in enumerate(raw.split(b"\n"), 1):
        try:
            named = _token_in(one)
        except ValueError as error:
            raise OpenError(
                f"{path}:{number}: expected a name and a token, as `ann Qm5…`, found {error}"
            ) from None
        if named is None:
            continue
        name, token, roles = named
        if token == unnamed:
            raise OpenError(
                f"{path}:{number}: expected a name and a token of its own, found the token of --token, or"
                f" EVERLOG_TOKEN: its callers would not be identified as {name}"
            )
        for what, key in ((f"the name {name}", _looks(name)), ("the token", f" {token}")):
            if key in lines:
                raise OpenError(
                    f"{path}:{number}: expected a name and a token that no other line has, found {what} of"
                    f" line {lines[key]}"
                )
            lines[key] = number
        found.tokens[name] = token
        if roles:
            found.roles[name] = roles
    if not found.tokens:
        raise OpenError(f"{path}: expected a line with a name and a token, as `ann Qm5…`, found none")
    return found


def _looks(name: str) -> str:
    """Return what is equal for names that look the same: composed characters, and other widths."""
    return unicodedata.normalize("NFKC", name)


def check_tokens(unnamed: str, tokens: Mapping[str, str]) -> None:
    """Raise OpenError for tokens that cannot be sent in a header, or that do not identify one name."""
    if unnamed and not TOKEN.fullmatch(unnamed):
        raise OpenError("expected a token of visible ASCII characters, found other characters or spaces")
    seen, names = {unnamed} - {""}, set[str]()
    for name, token in tokens.items():
        if _looks(name) in names:
            raise OpenError(f"two tokens have names that look like {name!r}; give each a name of its own")
        names.add(_looks(name))
        if not name.strip() or not name.isprintable():
            raise OpenError(f"expected the name of a token, found {name!r}")
        if not TOKEN.fullmatch(token):
            raise OpenError(
                f"expected the token of {name} to be visible ASCII characters, found others or none"
            )
        if token in seen:
            raise OpenError(f"the token of {name} is also that of another name; give each its own token")
        seen.add(token)


def _token_in(line: bytes) -> tuple[str, str, tuple[str, ...]] | None:
    """Return name, token and roles of a line, None for a blank line or a comment. Raises ValueError."""
    if line.startswith(b"\xef\xbb\xbf"):
        raise ValueError("a byte order mark; save the file without it")
    if line.endswith(b"\r"):
        raise ValueError("a carriage return at the end; save the file with line ends of Unix")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("bytes that are not UTF-8") from None
    if not text or text.startswith("#"):
        return None
    if text != text.strip():
        raise ValueError("whitespace at the beginning or the end")
    words = re.split("[ \t]+", text)
    if len(words) not in {2, 3}:
        raise ValueError(f"{len(words)} word{'s' if len(words) > 1 else ''}")
    name, token, *rest = words
    roles = tuple(rest[0].split(",")) if rest else ()
    if "" in roles:
        raise ValueError("a role without a name")
    if not name.isprintable() or not TOKEN.fullmatch(token) or token.startswith("#"):
        raise ValueError("characters that are not visible, or a token that is not ASCII or begins with #")
    return name, token, roles


def _shown(name: str) -> str:
    return "certificate" if proof_of(name) == Proof.CERTIFICATE else "token"
