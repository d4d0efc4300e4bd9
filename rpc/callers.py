"""Callers: who calls, and in whose name.

    token ─▶ its name ─▶ the actor of what the call commits
    no name            ─▶ who the call says, unless that is somebody with a token

A program that commits rows for its own users shows its own token and says theirs; the server is
told of such programs when it starts. Nobody decides of migrations in another's name.

Invariants
  (1) what the log says of somebody who has a token was called with that token, or by a program
      that was allowed to say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from everlog.rpc.calls import Context
from everlog.store.errors import AccessError, OpenError


class Callers:
    """Names of tokens, and which of them act for others. Raises OpenError for one that is none."""

    def __init__(self, names: Iterable[str] = (), acting: Iterable[str] = ()) -> None:
        self._names, self._acting = frozenset(names) - {""}, frozenset(acting)
        for name in sorted(self._acting - self._names):
            known = ", ".join(sorted(self._names)) or "none"
            raise OpenError(
                f"{name} acts for others: expected the name of a token, found none with it; the names are:"
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
                    f"the call says it is of {claimed}, its token is that of {name}; leave the actor out",
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
        return claimed if claimed and context.who in self._acting else self.who(context, claimed)
