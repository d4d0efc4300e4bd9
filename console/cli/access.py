"""Access: the commands access and token: roles, grants and tokens of a database, embedded or at a server.

    everlog access grant ann reader --table bookings
    everlog access explain ann delete bookings --at 812
    everlog token create --name deploy --role migrator --expires 90d

The text of a token is printed once, to standard output, and nothing else is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from everlog.console import output
from everlog.console.cli.connect import at_option, open_database
from everlog.console.cli.options import (
    Duration,
    Moment,
    Settings,
    common,
    pass_settings,
    writes,
)
from everlog.store.errors import RowError
from everlog.store.schema.arguments import nanoseconds, time_text
from everlog.store.tx.transaction import marked

if TYPE_CHECKING:
    from everlog.store.upkeep.access import NewToken, Shown
    from everlog.store.upkeep.allowance import Allowance
    from everlog.store.upkeep.read_audit import RecordedRead
    from everlog.store.upkeep.roles import Issued, Role

tables_option = click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="TABLE",
    help="Only on this table; * stands for any characters; may be repeated.",
)


@click.group()
@common
@pass_settings
def access(settings: Settings) -> None:
    """Show and change roles, and the identities that have them. The log records each change.

    Ready-made roles: reader, writer, follower, migrator, approver, auditor, operator, member,
    owner.

    \b
    Examples:
      everlog -u file:shop.db access grant ann reader --table 'order*' --reason "joins sales"
      everlog -u file:shop.db access explain ann delete orders
      everlog -u everlog://db.example.com/shop access show
    """


@access.command()
@at_option()
@common
@pass_settings
def show(settings: Settings, *, at: int | str | None) -> None:
    """Show the roles of each identity with their limits, and problems, such as a role that does not exist.

    \b
    Examples:
      everlog -u file:shop.db access show
      everlog -u file:shop.db access show --at 2026-01-05T09:30Z --json
    """
    from everlog.store.upkeep.access import allowances

    found = _shown(settings, at)
    for grant, change in found.grants:
        if settings.json:
            output.echo({"grant": msgspec.to_builtins(grant), "change": msgspec.to_builtins(change)})
        else:
            click.echo(f"{grant.identity}: {grant.role}{_on(grant.tables)}  (commit {change.seq})")
    for identity, limits in allowances(found).items():
        if settings.json:
            output.echo({"identity": identity, "limits": dict(limits.by_name())})
        else:
            click.echo(f"{identity}: {_at_most(limits)}")
    for table, share, change in found.audits:
        if settings.json:
            output.echo({"audit": {"table": table, "share": share}, "change": msgspec.to_builtins(change)})
        else:
            click.echo(f"reads of {table}: {share:.2%} are recorded  (commit {change.seq})")
    for problem in found.problems:
        output.echo({"problem": problem}) if settings.json else click.echo(f"warning: {problem}")
    if not (found.grants or found.audits or found.problems or settings.json):
        click.echo("No roles are granted")


@access.command()
@at_option()
@common
@pass_settings
def roles(settings: Settings, *, at: int | str | None) -> None:
    """List all roles with what they allow, the ready-made ones first.

    \b
    Examples:
      everlog -u file:shop.db access roles
    """
    for role, change in _shown(settings, at).roles:
        if settings.json:
            output.echo({"role": msgspec.to_builtins(role), "change": msgspec.to_builtins(change)})
        else:
            for line in _lines(role):
                click.echo(line)


@access.command()
@click.argument("identity")
@click.argument("role")
@tables_option
@writes
@common
@pass_settings
def grant(
    settings: Settings, *, identity: str, role: str, tables: tuple[str, ...], actor: str, reason: str
) -> None:
    """Grant a ROLE to IDENTITY, the name of a token or certificate.

    \b
    Examples:
      everlog -u file:shop.db access grant ann reader
      everlog -u file:shop.db access grant mirror follower --table orders --table customers
    """
    with open_database(settings) as db:
        seq = db.access.grant(identity, role, tables, actor=actor, reason=reason)
    _done(settings, seq, f"Granted: {identity} has the role {role}{_on(tables)}", "granted")


@access.command()
@click.argument("identity")
@click.argument("role")
@tables_option
@writes
@common
@pass_settings
def revoke(
    settings: Settings, *, identity: str, role: str, tables: tuple[str, ...], actor: str, reason: str
) -> None:
    """Take a ROLE from IDENTITY; with --table only the grant on these tables. Running calls end that need it.

    \b
    Examples:
      everlog -u file:shop.db access revoke ann reader --reason "left"
    """
    with open_database(settings) as db:
        seq = db.access.revoke(identity, role, tables or None, actor=actor, reason=reason)
    _done(settings, seq, f"Revoked: {identity} lost the role {role}{_on(tables)}", "revoked")


@access.command()
@click.argument("name")
@click.option("--right", "rights", multiple=True, metavar="RIGHT", help="Right to allow; may be repeated.")
@tables_option
@click.option(
    "--op",
    "ops",
    multiple=True,
    type=click.Choice(["put", "delete"]),
    help="Limit the right `write` to this operation; may be repeated.",
)
@click.option(
    "--rows",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Only rows with this value; may be repeated: one value of each named field must match. $who is the"
    " caller's name. Also FIELD<VALUE (or <=, >, >=), FIELD^=PREFIX, and !FIELD for a field that is not set.",
)
@click.option("--hide", "hidden", multiple=True, metavar="FIELD", help="Hide this field.")
@click.option(
    "--audited",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of its callers' reads, of any table, that servers record.  [default: 0, or unchanged]",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="LIMIT=N",
    help="Limit of each of its callers at a server, such as consumers=5, cap-seconds=30d or cap-bytes=0 (no"
    " limit); may be repeated.",
)
@click.option("--add", is_flag=True, help="Add this rule to the role, instead of replacing its rules.")
@writes
@common
@pass_settings
def define(
    settings: Settings,
    *,
    name: str,
    rights: tuple[str, ...],
    tables: tuple[str, ...],
    ops: tuple[str, ...],
    rows: tuple[str, ...],
    hidden: tuple[str, ...],
    audited: float | None,
    limits: tuple[str, ...],
    add: bool,
    actor: str,
    reason: str,
) -> None:
    """Define the role NAME by one rule, or add a rule to it.

    A call is allowed if one rule of one role allows it. `everlog access roles` shows the rights.

    A rule with --rows or --hide is checked against the tables that exist. It follows renames
    of tables, and gives no access to tables that are created later: define the role again for those.

    \b
    Examples:
      everlog -u file:shop.db access define clerk --right read --right write --table orders --op put
      everlog -u file:shop.db access define clerk --add --right read --table customers --hide email
      everlog -u file:shop.db access define tenant --right read --rows 'tenant=$who'
    """
    from everlog.store.upkeep.allowance import read_allowance
    from everlog.store.upkeep.conditions import read_conditions
    from everlog.store.upkeep.roles import Role, Rule

    try:
        equal, comparisons = read_conditions(rows)
        read_allowance(limits)
    except RowError as error:
        raise click.UsageError(str(error)) from None
    made = Rule(rights, tables, ops, equal, hidden, comparisons=comparisons)
    with open_database(settings) as db:
        before = Role(name, ())
        if add:
            before = next((role for role, _ in db.access.show().roles if role.name == name), before)
        share = before.audited if audited is None else audited
        role = Role(name, (*before.rules, made), share, read_allowance(limits, before.allowance))
        seq = db.access.define(role, actor=actor, reason=reason)
    _done(settings, seq, f"Defined: role {name}", "defined")


@access.command("remove-role")
@click.argument("name")
@writes
@common
@pass_settings
def remove_role(settings: Settings, *, name: str, actor: str, reason: str) -> None:
    """Remove the role NAME, which must be granted to no identity.

    \b
    Examples:
      everlog -u file:shop.db access remove-role clerk
    """
    with open_database(settings) as db:
        seq = db.access.remove_role(name, actor=actor, reason=reason)
    _done(settings, seq, f"Removed: role {name}", "removed")


@access.command()
@click.argument("who")
@click.argument("verb")
@click.argument("table", default="")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="VALUE",
    help="Also print whether the row with this key is visible; give one --key for each field of the key.",
)
@click.option("--field", default="", metavar="FIELD", help="Also print whether this field is visible.")
@at_option()
@common
@pass_settings
@click.pass_context
def explain(
    ctx: click.Context,
    settings: Settings,
    *,
    who: str,
    verb: str,
    table: str,
    keys: tuple[str, ...],
    field: str,
    at: int | str | None,
) -> None:
    """Print whether WHO may do VERB (a right, put or delete) on TABLE, and why; exit code 1 if not.

    With --key and --field it also says which condition of a role hides that row or field.

    \b
    Examples:
      everlog -u file:shop.db access explain ann read
      everlog -u file:shop.db access explain ann delete orders --at 812
      everlog -u file:shop.db access explain ann read orders --key 17 --field price
    """
    with open_database(settings, read_only=True) as db:
        key = None
        if keys and table:
            key = output.values(db.schema.table(table).key_fields, keys, f"the key of {table}")
        elif keys:
            raise click.UsageError("--key needs the TABLE of the row")
        found = db.access.explain(who, verb, table, key=key, field=field, at=at)
    if settings.json:
        output.echo({"allowed": found.allowed, "seq": found.seq, "because": list(found.sentences)})
    else:
        first, *rest = found.sentences
        click.echo(first)
        for sentence in rest:
            click.echo(f"  {sentence}")
    ctx.exit(0 if found.allowed else 1)


@access.command()
@click.argument("table")
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the reads to record: 1 for all, 0.01 for one in a hundred, 0 for none.",
)
@writes
@common
@pass_settings
def audit(settings: Settings, *, table: str, share: float, actor: str, reason: str) -> None:
    """Record the reads of TABLE at servers: when, by whom, of which rows.

    A read that cannot be recorded is refused.

    \b
    Examples:
      everlog -u file:shop.db access audit customers --reason "contract 12"
      everlog -u everlog://db.example.com/shop access audit orders --share 0.01
    """
    with open_database(settings) as db:
        seq = db.access.audit(table, share, actor=actor, reason=reason)
    what = "no reads" if not share else "all reads" if share == 1 else f"{share:.2%} of the reads"
    _done(settings, seq, f"Audited: servers record {what} of {table}", "audited")


@access.command()
@click.option("--who", default="", metavar="IDENTITY", help="Only reads by this identity.")
@click.option("--table", default="", metavar="TABLE", help="Only reads of this table.")
@click.option("--since", type=Moment(), metavar="TIME", help="Only reads at or after this time.")
@click.option("--before", type=Moment(), metavar="TIME", help="Only reads before this time.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most N reads.")
@common
@pass_settings
def reads(settings: Settings, *, who: str, table: str, since: Any, before: Any, limit: int | None) -> None:
    """List the recorded reads of audited tables, oldest first.

    \b
    Examples:
      everlog -u file:shop.db access reads --table customers --since '1h ago'
      everlog -u everlog://db.example.com/shop access reads --who ann --json
    """
    with open_database(settings, read_only=True) as db:
        found = db.access.reads(who=who, table=table, since=since, before=before, limit=limit)
        for one in found:
            if settings.json:
                output.echo(msgspec.to_builtins(one))
            else:
                click.echo(_read_line(one))


@access.command()
@common
@pass_settings
def whoami(settings: Settings) -> None:
    """Show the caller as the server sees it: its name, the proof of it, roles and rights.

    \b
    Examples:
      everlog -u everlog://db.example.com/shop access whoami
    """
    with open_database(settings, read_only=True) as db:
        found = db.access.whoami()
    if settings.json:
        told = {"name": found.name, "proof": found.proof, "expires_ns": found.expires_ns}
        limits = [one.told() for one in found.limits]
        output.echo({**told, "roles": list(found.roles), "rights": list(found.rights), "limits": limits})
        return
    ends = f", until {time_text(found.expires_ns)}" if found.expires_ns else ""
    click.echo(f"{found.name or 'anonymous'} (proof: {found.proof}{ends})")
    click.echo(f"  roles: {', '.join(found.roles)}")
    click.echo(f"  rights: {', '.join(found.rights)}")
    for one in found.limits:
        click.echo(f"  at most {one.words}")


@click.group()
@common
@pass_settings
def token(settings: Settings) -> None:
    """Manage the tokens of a database. The log has their hashes, and not their text.

    \b
    Examples:
      everlog -u file:shop.db token create --name deploy --role migrator --expires 90d > deploy.token
      everlog -u file:shop.db token list
      everlog -u file:shop.db token revoke deploy --reason "leaked"
    """


@token.command()
@click.option("--name", required=True, metavar="NAME", help="Identity of its callers.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="Role of its calls; may be repeated.  [default: those granted to NAME]",
)
@click.option(
    "--expires",
    type=Moment(future=True),
    metavar="TIME",
    help="Time when it ends, or its duration, as tomorrow 14:00 or 90d.  [default: never]",
)
@writes
@common
@pass_settings
def create(
    settings: Settings, *, name: str, roles: tuple[str, ...], expires: str | None, actor: str, reason: str
) -> None:
    """Create a token and print its text, once.

    \b
    Examples:
      everlog -u file:shop.db token create --name deploy --role migrator --expires 90d
      everlog -u everlog://db.example.com/shop token create --name ann --json
    """
    ends_ns = nanoseconds(expires) if expires else 0
    with open_database(settings) as db:
        made = db.access.create_token(name, roles, expires_ns=ends_ns, actor=actor, reason=reason)
    _print(settings, made)


@token.command("list")
@click.option("--all", "ended", is_flag=True, help="Also show tokens that have ended.")
@common
@pass_settings
def list_(settings: Settings, *, ended: bool) -> None:
    """List the tokens of the database: id, name, roles, end.

    \b
    Examples:
      everlog -u file:shop.db token list
      everlog -u file:shop.db token list --all --json
    """
    with open_database(settings, read_only=True) as db:
        found, uuid = db.access.show().tokens, db.uuid
    now_ns = time.time_ns()
    for one in found:
        if ended or one.valid(uuid, now_ns):
            output.echo(_told(one)) if settings.json else click.echo(_line(one, uuid, now_ns))


@token.command()
@click.argument("which")
@click.option(
    "--keep",
    type=Duration(),
    metavar="DURATION",
    help="Keep the old token valid for this long.  [default: 0s]",
)
@writes
@common
@pass_settings
def rotate(settings: Settings, *, which: str, keep: float | None, actor: str, reason: str) -> None:
    """Replace a token, named by its id or name, and print the text of the new one.

    \b
    Examples:
      everlog -u file:shop.db token rotate deploy --keep 1h
    """
    with open_database(settings) as db:
        made = db.access.rotate_token(which, keep_s=keep or 0, actor=actor, reason=reason)
    _print(settings, made)


@token.command("revoke")
@click.argument("which")
@writes
@common
@pass_settings
def revoke_token(settings: Settings, *, which: str, actor: str, reason: str) -> None:
    """End a token, named by its id, or all tokens of a name. Its running streams end within a second.

    \b
    Examples:
      everlog -u file:shop.db token revoke 3f9a12c07b44 --reason "leaked"
    """
    with open_database(settings) as db:
        seq = db.access.revoke_token(which, actor=actor, reason=reason)
    _done(settings, seq, f"Revoked: token {which}", "revoked")


def _shown(settings: Settings, at: int | str | None) -> Shown:
    with open_database(settings, read_only=True) as db:
        return db.access.show(at)


def _done(settings: Settings, seq: int, text: str, word: str) -> None:
    if settings.json:
        output.echo({word: bool(seq), "seq": seq})
    else:
        click.echo(f"{text} (commit {seq})" if seq else "Nothing to change")


def _print(settings: Settings, made: NewToken) -> None:
    one = made.token
    if settings.json:
        output.echo({"token": made.text, "id": one.id, "name": one.name, "expires_ns": one.expires_ns})
    else:
        click.echo(made.text)


def _read_line(one: RecordedRead) -> str:
    what = [one.table, *([f"index {one.index}"] if one.index else [])]
    what += [f"keys {', '.join(one.keys)}"] if one.keys else []
    what += [f"from {one.range}"] if one.range else []
    what += [f"as of {one.at_seq}"] if one.at_seq else []
    who = f"{one.identity or 'anonymous'}{marked(one.proof)}"
    return f"{time_text(one.time_ns)}  {who}  {one.call}  {'; '.join(what)}"


def _on(tables: tuple[str, ...]) -> str:
    return f" on {', '.join(tables)}" if tables else ""


def _lines(role: Role) -> list[str]:
    from everlog.store.upkeep.conditions import words_of

    found = []
    for number, rule in enumerate(role.rules):
        name = f"{role.name}:" if not number else " " * (len(role.name) + 1)
        limits = [f"tables {', '.join(rule.tables)}"] if rule.tables else []
        limits += [f"operations {', '.join(rule.ops)}"] if rule.ops else []
        limits += [f"rows with {words}" for words in words_of(rule.rows, rule.comparisons)]
        limits += [f"without {', '.join(rule.hidden)}"] if rule.hidden else []
        limited = f"  ({'; '.join(limits)})" if limits else ""
        found.append(f"{name} {', '.join(rule.rights)}{limited}")
    if role.allowance:
        found.append(f"{' ' * (len(role.name) + 1)} {_at_most(role.allowance)}")
    return found


def _at_most(limits: Allowance) -> str:
    words = [f"{name} {value:,}" if value else f"{name} without limit" for name, value in limits.items()]
    return f"at most: {', '.join(words)}"


def _line(one: Issued, uuid: bytes, now_ns: int) -> str:
    roles = ", ".join(one.token.roles) or "roles of its name"
    ends = f"until {time_text(one.ends_ns)}" if one.ends_ns else "does not expire"
    if not one.valid(uuid, now_ns):
        ends = f"ended {time_text(one.ends_ns)}" if one.ends_ns else "of another database"
    return f"{one.token.id}  {one.token.name}  {roles}; {ends}"


def _told(one: Issued) -> dict[str, Any]:
    token = one.token
    return {
        "id": token.id,
        "name": token.name,
        "roles": list(token.roles),
        "ends_ns": one.ends_ns,
        "created": msgspec.to_builtins(one.created),
        "ended": msgspec.to_builtins(one.ended),
    }
