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

from collections.abc import Iterable

from everlog.rpc.calls import Context
from everlog.store.errors import AccessError, OpenError
from everlog.store.transaction import Actor, Proof, proof_of


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
        for what, said in (("acts for others", self._acting), ("may have keys", self._keys_for)):
            for name in sorted(said - self._names) if not certified else ():
                known = ", ".join(sorted(self._names)) or "none"
                raise OpenError(
                    f"{name} {what}: expected the name of a token, found none with it; the names are:"
                    f" {known}",
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


def _shown(name: str) -> str:
    return "certificate" if proof_of(name) == Proof.CERTIFICATE else "token"
