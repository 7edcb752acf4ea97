"""`make import-subscriptions`: make the subscriptions that another stage or system had."""

import json
import math
from functools import cache
from pathlib import Path

import click

from chalicelib.customers.subscription import SHOWN, check_headers
from chalicelib.infra.errors import InvalidRequestError
from chalicelib.infra.parsing import parser
from chalicelib.web.validation import (
    DESCRIPTION_MEMBERS,
    SECRET_MEMBER,
    must_be,
    parse_name,
    parse_object,
)
from tools.api import Api, ApiCallError, check
from tools.command_line import act_on_each, command_line, file_option, numbered_lines
from tools.subscriptions import path_of

# The API alone knows which hosts are allowed.
TARGET_URL = parser(
    r"(?i)https?://(?!hooks\.zapier\.com[/:])\S+",
    "a URL, and of no Zap: switch it off and on, because it unsubscribes by the id that it knows",
)
GIVEN = {"target_url": TARGET_URL, "tenant": parse_name, **DESCRIPTION_MEMBERS, **SECRET_MEMBER}
TOLD = ("subscription_id", "target_host", "header_names", *SHOWN)
MEMBERS = {
    **dict.fromkeys(TOLD, lambda value: value),
    "signs_with": must_be("a list", lambda value: isinstance(value, list)),
    **GIVEN,
}
NO_TOKEN = "made by the API key, not by the customer, because tokens need signing secrets"  # noqa: S105


@click.command("import-subscriptions", short_help="Check a file of subscriptions, or make them.")
@file_option(required=True)
@click.option("--go", is_flag=True, help="Make them. Without it they are checked and counted.")
def import_subscriptions(file: Path, *, go: bool) -> None:
    """Make a subscription of each line of a file, as `make export-subscriptions` prints it.

    A line with `disabled_at` is disabled by hand, others are enabled; one that a customer made is
    the customer's again. Repeating the command sets what the file says. Lines that are refused are
    named, and the exit code is 1.
    """
    api = Api()
    lines = numbered_lines(file.read_bytes())
    known: dict[str, str] = {}

    @cache
    def authorization(tenant: str) -> dict[str, str]:
        """Return the header of a call by the customer."""
        status, made, _ = api.request("POST", "/tokens", json={"tenant": tenant})
        if status == 409:
            click.echo(f"{tenant}: {NO_TOKEN}", err=True)
            return {}
        check(status, made)
        return {"Authorization": f"Bearer {made['token']}"}

    def import_line(name: str) -> str:
        try:
            wanted = parse_object(lines[name], MEMBERS, ("target_url",))
            check_headers(wanted)
        except InvalidRequestError as error:
            raise ApiCallError(400, str(error)) from error
        if len(wanted.get("signs_with") or ()) > 1:
            click.echo(f"{name}: several secrets sign its pushes; the present one is taken")
        types = wanted.get("event_types")
        tenant = wanted.get("tenant")
        identity = json.dumps([wanted["target_url"], types and sorted(set(types)), tenant])
        if known.setdefault(identity, name) != name:
            raise ApiCallError(400, f"has the URL, types and tenant of {known[identity]}")
        if not go:
            return "can be imported"
        is_customers = wanted.get("created_by") == f"tenant:{tenant}"
        status, made, _ = api.request(
            "POST",
            "/subscriptions",
            json={member: wanted[member] for member in GIVEN if member in wanted},
            headers=authorization(tenant) if is_customers else {},
        )
        check(status, made)
        # POST /subscriptions does not set the previous secret, which signs for a day.
        secret = wanted.get("secret")
        if secret not in (None, made["secret"]):
            path = path_of(made["subscription_id"], "secret")
            api.call("POST", path, json={"secret": secret})
        is_disabled = bool(wanted.get("disabled_at"))
        if is_disabled is not bool(made["disabled_at"]):
            verb = "disable" if is_disabled else "enable"
            api.call("POST", path_of(made["subscription_id"], verb))
        return "made" if status == 201 else "there before"

    command = command_line("import-subscriptions", {"file": str(file), "go": "1"})
    again = f"To import all: {command}"
    refused = act_on_each(
        "line",
        lines,
        import_line,
        total=len(lines),
        rate=math.inf,
        rest=lambda _: again,
    )
    if not go:
        print(again)
    if refused:
        raise click.ClickException("some lines were refused")
