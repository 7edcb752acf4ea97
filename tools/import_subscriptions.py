"""`make import-subscriptions`: make the subscriptions that another stage or system had."""

from functools import cache
from pathlib import Path

import click

from chalicelib.infra.addresses import EXPECTED_URL, PUSH_URL, checked_url
from chalicelib.infra.errors import InvalidRequestError
from chalicelib.infra.parsing import Json, must_be, parser
from chalicelib.subscriptions.subscription import SHOWN, check_headers
from chalicelib.subscriptions.subscriptions import MAX_SUBSCRIPTIONS, make_id, seed_of
from chalicelib.web.validation import (
    DESCRIPTION_MEMBERS,
    SECRET_MEMBER,
    load_json,
    parse_name,
    parse_object,
)
from tools.api import Api, ApiCallError, check, printable
from tools.command_line import act_on_each, again, file_option, numbered_lines
from tools.subscriptions import path_of

# The API alone knows which hosts are allowed.
TARGET_URL = parser(
    rf"(?!(?i:https?://hooks\.zapier\.com\.?([/:?]|$))){PUSH_URL}",
    f"{EXPECTED_URL}, and of no Zap: switch it off and on, because it unsubscribes by its id",
    checked_url,
)
GIVEN = {"target_url": TARGET_URL, "tenant": parse_name, **DESCRIPTION_MEMBERS, **SECRET_MEMBER}
TOLD = ("subscription_id", "target_host", "header_names", "state", *SHOWN)
MEMBERS = {
    **dict.fromkeys(TOLD, lambda value: value),
    "signs_with": must_be("a list", lambda value: isinstance(value, list)),
    **GIVEN,
}
NO_TOKEN = "made by the API key, not by the customer, because tokens need signing secrets"  # noqa: S105
DISABLED = "is disabled, because it failed: enable or delete it, and import the line again"


def parse_line(line: bytes) -> Json:
    """Return the members of a line; raise ApiCallError if the API would refuse it."""
    try:
        wanted = parse_object(load_json(line), MEMBERS, ("target_url",))
        check_headers(wanted)
    except InvalidRequestError as error:
        raise ApiCallError(400, str(error)) from error
    return wanted


def make(api: Api, wanted: Json, headers: dict[str, str], there: Json) -> tuple[Json, str]:
    """Make the subscription of a line, paused if the line is; return it, and what came of it.

    :param headers: Who makes it, unless that is the key.
    :param there: The subscriptions before the import, by id. The status does not tell: a call that
        is repeated, because its response was lost, finds what it made (200).
    """
    body = {member: wanted[member] for member in GIVEN if member in wanted}
    status, made, _ = api.request("POST", "/subscriptions", json=body, headers=headers)
    try:
        check(status, made)
    except ApiCallError as error:  # a customer is not told what the setting is called
        text = str(error).replace("allowed by the operator", "allowed by SUBSCRIPTION_HOSTS")
        raise ApiCallError(error.status, text) from error
    if made["subscription_id"] in there:
        if wanted.get("disabled_at") and not made["disabled_at"]:
            click.echo(f"{made['subscription_id']} is enabled, its line is not", err=True)
        return made, "there"
    if wanted.get("disabled_at"):
        path = path_of(made["subscription_id"], "disable")
        try:
            made, _ = api.call("POST", path)
        except (KeyboardInterrupt, ApiCallError):
            click.echo(f"made, not paused yet, which is tried once more: {path}", err=True)
            api.call("POST", path)
            raise
    return made, "made"


@click.command("import-subscriptions", short_help="Check a file of subscriptions, or make them.")
@file_option(required=True)
@click.option("--go", is_flag=True, help="Make them. Without it they are checked and counted.")
def import_subscriptions(file: Path, *, go: bool) -> None:
    """Make a subscription of each line of a file, as `make export-subscriptions` prints it.

    A line with `disabled_at` is disabled by hand, if this makes it: one that is there keeps its
    state. One that a customer made is the customer's again. Repeated, the command changes nothing
    but names. Refused are a line whose subscription is there with other members, which its id
    names, and what goes over 100 of a tenant. Lines that are refused are named, and the exit code
    is 1.
    """
    api = Api()
    lines = numbered_lines(file.read_bytes())
    names: dict[str, str] = {}
    there: dict[str, Json] = {}
    of_tenant: dict[str | None, set[str]] = {}
    if go:
        me, _ = api.call("GET", "/me")
        for subscription in api.list_all("/subscriptions", tenant="*"):
            subscription_id = subscription["subscription_id"]
            there[subscription_id] = subscription
            of_tenant.setdefault(subscription["tenant"], set()).add(subscription_id)

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
        wanted = parse_line(lines[name])
        if len(wanted.get("signs_with") or ()) > 1:
            click.echo(f"{name}: several secrets sign its pushes; the present one is taken")
        tenant = wanted.get("tenant")
        identity = (wanted["target_url"], tenant, wanted.get("event_types"))
        key = make_id(seed_of("", *identity))
        first = names.setdefault(key, name)
        if first != name:
            raise ApiCallError(400, f"has the URL, types and tenant of {first}")
        headers = {}
        if go:
            customer = f"tenant:{tenant}"
            headers = authorization(tenant) if wanted.get("created_by") == customer else {}
            key = make_id(seed_of(customer if headers else me["name"], *identity))
        counted = of_tenant.setdefault(tenant, set())
        counted.add(key)
        if len(counted) > MAX_SUBSCRIPTIONS:
            counted.remove(key)
            raise ApiCallError(409, f"goes over {MAX_SUBSCRIPTIONS} subscriptions of its tenant")
        if not go:
            return "can be imported"
        before = there.get(key)
        if before and before["state"] == "disabled":  # POST would enable it
            raise ApiCallError(409, f"{key} {DISABLED}")
        made, what = make(api, wanted, headers, there)
        outcome = f"{what} ({made['state']})"
        former_id = wanted.get("subscription_id") or "no id"
        click.echo(printable(f"{name}, {former_id}: {made['subscription_id']} {outcome}"))
        return outcome

    how_to_import = f"To import all: {again(go='1')}"
    act_on_each("line", lines, import_line, total=len(lines), rest=lambda _: how_to_import)
    if not go:
        print(how_to_import)
