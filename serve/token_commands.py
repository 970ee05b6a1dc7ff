"""`dail token`: who may ask an API. It works on the store itself, so whoever may write that makes the first token.

dail token new --name ana --scope submit --scope read --tenant topology
dail token list
dail token revoke tok_3f9c21ab04de
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dail.serve.own_store import data_dir_option, opened
from dail.synth.core.console import emit, say
from dail.synth.core.errors import EXIT_OK, UsageError
from dail.synth.core.options import Numbers

if TYPE_CHECKING:  # the verbs' help starts without the store
    from dail.serve.store.tokens import TokenRecord

_SCOPES = ("submit", "read", "admin", "worker")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_DAY_S = 86_400.0


def _of_name(option: str) -> Callable[[click.Context, click.Parameter, str], str]:
    def check(_: click.Context, __: click.Parameter, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise UsageError(f"--{option} takes up to 64 letters, digits and _ . @ -, with a letter or digit first")
        return value

    return check


_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, one object a line.")


@click.group()
def token() -> None:
    """Tokens of an API: new, list, revoke. A running server takes and refuses them within two seconds.

    They are kept in the store that `dail serve` has, as hashes. From the first one on every request needs one; revoking
    all of them opens nothing.
    """


@token.command()
@click.option("--name", required=True, callback=_of_name("name"), help="Whose it is, or what for; shown in lists.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(_SCOPES),
    help="submit: post, cancel, retry and delete batches; read: look at them; admin: both, of every tenant, and the "
    "server's own affairs; worker: lease units. Repeatable [submit and read].",
)
@click.option("--tenant", default="", callback=_of_name("tenant"), help="Its batches are those of this tenant alone.")
@click.option("--days", type=Numbers(0, 36_500, min_open=True), help="Ends after so many days [never].")
@data_dir_option
@_json
def new(
    name: str, scopes: tuple[Any, ...], tenant: str, days: float | None, data_dir: Path | None, as_json: bool
) -> int:
    """Make a token. Its secret is printed once and kept nowhere: give it to its owner as DAIL_TOKEN."""
    from dail.serve.rules.tokens import new_token
    from dail.serve.settings import load_settings

    scopes = scopes or ("submit", "read")
    if tenant and set(scopes) == {"worker"}:
        raise UsageError("a worker serves every tenant; leave out --tenant, or --scope worker")
    with opened(load_settings(data_dir=data_dir), may_be_new=True) as store:
        made, secret = new_token(store, name, scopes, tenant, None if days is None else days * _DAY_S)
    if as_json:
        emit({**_facts(made), "secret": secret})
    else:
        say(f"{_line(made)}\nits secret, which is not shown again:")
        click.echo(secret)
    return EXIT_OK


@token.command("list")
@data_dir_option
@_json
def list_tokens(data_dir: Path | None, as_json: bool) -> int:
    """All tokens, oldest first, revoked and ended ones too; never their secrets."""
    from dail.serve.rules.tokens import all_tokens
    from dail.serve.settings import load_settings

    with opened(load_settings(data_dir=data_dir)) as store:
        found = all_tokens(store)
    for one in found:
        emit(_facts(one)) if as_json else click.echo(_line(one))
    if not found:
        say("there is no token; `dail token new --name NAME` makes one")
    return EXIT_OK


@token.command()
@click.argument("token_id", metavar="ID")
@data_dir_option
@_json
def revoke(token_id: str, data_dir: Path | None, as_json: bool) -> int:
    """Refuse a token from now on, for good. Again is no error."""
    from dail.serve.rules.tokens import revoke as revoke_token
    from dail.serve.settings import load_settings

    with opened(load_settings(data_dir=data_dir)) as store:
        revoke_token(store, token_id)
    emit({"id": token_id, "revoked": True}) if as_json else click.echo(f"{token_id} revoked")
    return EXIT_OK


def _facts(one: TokenRecord) -> dict[str, Any]:
    """For programs: without the hash, with what the token may do now."""
    return {key: value for key, value in dataclasses.asdict(one).items() if key != "hash"} | {"status": _status(one)}


def _status(one: TokenRecord) -> str:
    if one.revoked_at is not None:
        return "revoked"
    return "ended" if one.expires_at is not None and one.expires_at <= time.time() else "active"


def _line(one: TokenRecord) -> str:
    until = f", until {_day(one.expires_at)}" if one.expires_at else ""
    used = f"used {_day(one.used_at)}" if one.used_at else "not used yet"
    of_tenant = f"tenant {one.tenant}" if one.tenant else "no tenant"
    return f"{one.id}  {_status(one):<7}  {one.name}  {','.join(one.scopes)}  {of_tenant}  {used}{until}"


def _day(time_s: float) -> str:
    return dt.datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
