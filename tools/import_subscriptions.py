"""`make import-subscriptions`: create the subscriptions that another stage or system had."""

from pathlib import Path

import click

from chalicelib.infra.addresses import EXPECTED_URL, PUSH_URL, checked_url
from chalicelib.infra.errors import InvalidRequestError
from chalicelib.infra.parsing import Json, must_be, parser
from chalicelib.subscriptions.subscription import API_MEMBERS, check_headers
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
# The parsers of the members that `POST /subscriptions` takes.
POSTED_MEMBERS = {
    "target_url": TARGET_URL,
    "tenant": parse_name,
    **DESCRIPTION_MEMBERS,
    **SECRET_MEMBER,
}
MEMBERS = {
    # Members that an export shows and the API sets itself. Their values are not checked.
    **dict.fromkeys(API_MEMBERS, lambda value: value),
    "signs_with": must_be("a list", lambda value: isinstance(value, list)),
    **POSTED_MEMBERS,
}


def parse_line(line: bytes) -> Json:
    """Return the members of a line of the file by name, parsed. Raise ApiCallError if the line is
    not a JSON object, or if the API would refuse a member of it.
    """
    try:
        wanted = parse_object(load_json(line), MEMBERS, required=("target_url",))
        check_headers(wanted.get("headers"), wanted.get("header_prefix"))
    except InvalidRequestError as error:
        raise ApiCallError(400, str(error)) from error
    return wanted


DISABLED = (
    "was disabled because its deliveries failed: enable or delete it, and import the line again"
)


class Importer:
    """Imports the lines of one file, or only checks them.

    :param is_check: Whether to check and count the lines without creating subscriptions.
    """

    def __init__(self, api: Api, *, is_check: bool) -> None:
        """Read the name of the API key and all existing subscriptions, unless lines are only
        checked. Raise ApiCallError if a call fails.

        :param is_check: Whether lines are only checked, which makes no call.
        """
        self._api = api
        self._is_check = is_check
        # The name of the API key; empty if lines are only checked.
        self._key_name = ""
        # The subscriptions that existed before the import, by id.
        self._existing: dict[str, Json] = {}
        # The ids of each tenant's subscriptions, with those of the lines so far.
        self._ids_by_tenant: dict[str | None, set[str]] = {}
        # The name of the first line with each combination of URL, tenant and types.
        self._first_names: dict[str, str] = {}
        # The headers of calls by a tenant's customer, by tenant.
        self._headers_by_tenant: dict[str, dict[str, str]] = {}
        if is_check:
            return
        me = api.call("GET", "/me").content
        self._key_name = str(me["name"])
        for subscription in api.list_all("/subscriptions", tenant="*"):
            subscription_id = subscription["subscription_id"]
            self._existing[subscription_id] = subscription
            self._ids_by_tenant.setdefault(subscription["tenant"], set()).add(subscription_id)

    def import_line(self, name: str, line: bytes) -> str:
        """Create the subscription of a line, and pause it if it was disabled; or only check the
        line. Return the outcome in words. If the subscription exists already, only its name is
        updated.

        Raise ApiCallError if the line is refused.

        :param name: How messages call the line, such as `line 1`.
        """
        wanted = parse_line(line)
        tenant = wanted.get("tenant")
        if len(wanted.get("signs_with") or ()) > 1:
            click.echo(f"{name}: several secrets sign its pushes; only the present one is imported")
        self._require_no_duplicate(name, wanted)
        if self._is_check:
            self._require_room(tenant, id_of(wanted, created_by=""))
            return "can be imported"
        # A subscription that a customer created is created in the customer's name again, by a token
        # in the headers. Its id depends on its creator.
        headers = self._authorize(wanted)
        created_by = f"tenant:{tenant}" if headers else self._key_name
        subscription_id = id_of(wanted, created_by)
        self._require_room(tenant, subscription_id)
        existing = self._existing.get(subscription_id)
        # It was disabled for failing, not paused by someone. POST would enable it.
        if existing and existing["state"] == "disabled":
            raise ApiCallError(409, f"{subscription_id} {DISABLED}")
        subscription = self._create(wanted, headers)
        created_id = subscription["subscription_id"]
        # The status does not show whether it existed: a call that is repeated because its response
        # was lost is answered 200, too.
        if created_id in self._existing:
            outcome = f"there already ({subscription['state']})"
            if wanted.get("disabled_at") and not subscription["disabled_at"]:
                click.echo(f"{created_id} is enabled, although its line is disabled", err=True)
        else:
            if wanted.get("disabled_at"):
                subscription = self._pause(created_id)
            outcome = f"made ({subscription['state']})"
        former_id = wanted.get("subscription_id") or "no id"
        click.echo(printable(f"{name}, {former_id}: {created_id} {outcome}"))
        return outcome

    def _require_no_duplicate(self, name: str, wanted: Json) -> None:
        """Raise ApiCallError if an earlier line has the same URL, tenant and types as this line.

        :param name: How messages call this line, such as `line 2`.
        :param wanted: The members of this line.
        """
        # Only lines are compared, so the creator is left out.
        key = id_of(wanted, created_by="")
        first_name = self._first_names.setdefault(key, name)
        if first_name != name:
            raise ApiCallError(400, f"has the URL, types and tenant of {first_name}")

    def _authorize(self, wanted: Json) -> dict[str, str]:
        """Return the headers of a call by the customer who created the subscription of a line;
        empty: the API key creates it, because the API key or another key created it before, or
        because there are no tokens.
        """
        tenant = wanted.get("tenant")
        if not tenant or wanted.get("created_by") != f"tenant:{tenant}":
            return {}
        if tenant not in self._headers_by_tenant:
            self._headers_by_tenant[tenant] = self._make_token(tenant)
        return self._headers_by_tenant[tenant]

    def _make_token(self, tenant: str) -> dict[str, str]:
        """Return the header with a new token for a tenant; empty if the stage has no signing
        secrets, without which there are no tokens.
        """
        response = self._api.request("POST", "/tokens", json={"tenant": tenant})
        if response.status == 409:  # there are no signing secrets
            message = (
                "made by the API key, not by the customer, because tokens need "
                "WEBHOOK_SIGNING_SECRETS"
            )
            click.echo(f"{tenant}: {message}", err=True)
            return {}
        check(response.status, response.content)
        return {"Authorization": f"Bearer {response.content['token']}"}

    def _require_room(self, tenant: str | None, subscription_id: str) -> None:
        """Count the subscription of a line, and raise ApiCallError if its tenant would have more
        than MAX_SUBSCRIPTIONS subscriptions. A subscription that exists already is not counted
        twice.

        :param tenant: The tenant; None: the subscription has none. The same limit applies to all
            subscriptions without a tenant together.
        """
        ids = self._ids_by_tenant.setdefault(tenant, set())
        ids.add(subscription_id)
        if len(ids) > MAX_SUBSCRIPTIONS:
            ids.remove(subscription_id)
            raise ApiCallError(
                409, f"goes over the {MAX_SUBSCRIPTIONS} subscriptions that its tenant may have"
            )

    def _create(self, wanted: Json, headers: dict[str, str]) -> Json:
        """Create the subscription of a line, and return it. If it exists already, the API updates
        its name and returns it. Raise ApiCallError if the API refuses it.

        :param wanted: The members of the line.
        :param headers: The authorization of the customer who creates it; empty: the API key creates
            it.
        """
        body = {member: wanted[member] for member in POSTED_MEMBERS if member in wanted}
        response = self._api.request("POST", "/subscriptions", json=body, headers=headers)
        try:
            check(response.status, response.content)
        except ApiCallError as error:
            # The API does not name the setting to customers, but this command is for operators.
            text = str(error).replace("allowed by the operator", "allowed by SUBSCRIPTION_HOSTS")
            raise ApiCallError(error.status, text) from error
        return response.content

    def _pause(self, subscription_id: str) -> Json:
        """Disable a new subscription, and return it. If the call fails or Ctrl-C interrupts it,
        make it once more before the error is raised.
        """
        path = path_of(subscription_id, "disable")
        try:
            paused = self._api.call("POST", path).content
        except (KeyboardInterrupt, ApiCallError):
            click.echo(f"made, but not paused yet; trying once more: {path}", err=True)
            self._api.call("POST", path)
            raise
        return paused


def id_of(wanted: Json, created_by: str) -> str:
    """Return the id that the API gives to the subscription of a line. It depends on the URL, the
    tenant and the event types, and on who creates the subscription.

    :param wanted: The members of the line.
    :param created_by: The name of the API key, or `tenant:` and the tenant for a customer; empty:
        the id is only compared with other such ids of lines.
    """
    tenant = wanted.get("tenant")
    return make_id(seed_of(created_by, wanted["target_url"], tenant, wanted.get("event_types")))


@click.command(
    "import-subscriptions", short_help="Check a file of subscriptions, or create them (--go)."
)
@file_option(required=True)
@click.option(
    "--go", is_flag=True, help="Create them. Without it, the lines are checked and counted."
)
def import_subscriptions(file: Path, *, go: bool) -> None:
    """Create a subscription from each line of a file that `make export-subscriptions` printed.

    A line with `disabled_at` becomes a paused subscription. If a customer created the
    subscription, the new one belongs to the customer, too.

    Running the command again creates nothing twice. Subscriptions that are there already are
    counted; they keep their state, and only their names are updated.

    A line is refused if its subscription is there with other members (the message names its id),
    or if its tenant would have more than 100 subscriptions. Refused lines are named, the others
    are imported, and the exit status is 1.

    \f
    :param file: The path of the file.
    :param go: Whether the subscriptions are created. Otherwise the lines are only checked.
    """
    importer = Importer(Api(), is_check=not go)
    lines = numbered_lines(file.read_bytes())

    def import_line(name: str) -> str:
        """Import or check the line with a name; return the outcome in words."""
        return importer.import_line(name, lines[name])

    how_to_import = f"To import all: {again(go='1')}"
    act_on_each("line", lines, import_line, total=len(lines), rest=lambda _done: how_to_import)
    if not go:
        print(how_to_import)
