"""What tests of subscriptions do through the API."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from chalicelib.core.event import Event, NewEvent, Status
from chalicelib.core.posting import make_event
from chalicelib.core.store import compressed
from chalicelib.deps import Services
from chalicelib.infra.times import rfc3339
from tests.support.receiver import Receiver
from tests.support.world import CONSUMER_KEY, KEY, START, Answer, Json, World


def subscribe(
    world: World,
    target: str | Receiver,
    *event_types: str,
    key: str = CONSUMER_KEY,
    **members: Any,
) -> Answer:
    url = target.url if isinstance(target, Receiver) else target
    body = {"target_url": url, "event_types": event_types or None, **members}
    return world.call("POST", "/subscriptions", body, key=key)


def make_token(world: World, tenant: str, *, key: str = CONSUMER_KEY, **members: int) -> str:
    answer = world.call("POST", "/tokens", {"tenant": tenant, **members}, key=key)
    assert answer.status_code == 201, answer.text
    return str(answer.json["token"])


def subscribed(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    """Make a subscription; return its path."""
    return subscribe(world, target, *event_types, **members).location


def id_of_new(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    """Make a subscription; return its id."""
    return subscribed(world, target, *event_types, **members).rpartition("/")[2]


def subscriptions(world: World, tenant: str | None = None) -> Any:
    path = f"/subscriptions?tenant={tenant}" if tenant else "/subscriptions"
    return world.call("GET", path).json["subscriptions"]


def post_for(world: World, tenant: str | None) -> Any:
    """Post an event of a tenant; return it."""
    body = {"event_type": "order.created", "payload": {"price": "12 €"}, "tenant": tenant}
    return world.offer(body).json


def secret_of(world: World, path: str) -> Any:
    return world.get(f"{path}/secret")["secret"]


def post_later(world: World, payload: Json | None = None, **members: object) -> Any:
    """Post an event with these members, and let a second pass; return it."""
    body = {"event_type": "order.created", "payload": payload or {}, **members}
    event = world.offer(body).json
    world.sleep(1)
    return event


def copies(world: World, event: Json) -> list[Json]:
    return [world.event(event_id) for event_id in event["copies"]]


def states(world: World, event: Json) -> list[str]:
    """Return the status of each copy of an event."""
    return [copy["status"] for copy in copies(world, event)]


def ids(answer: Answer) -> list[str]:
    """Return the ids of listed or leased events."""
    return [event["event_id"] for event in answer.json["events"]]


def listed(world: World, path: str = "/inbox") -> list[str]:
    """Return the ids of the events of a list."""
    return ids(world.call("GET", path))


def read_lists(services: Services, tenant: str | None = None) -> None:
    """Let a container read the lists of subscriptions, as it does every ten seconds."""
    event = make_event(NewEvent("a", "{}", "null", tenant), "acme", services)
    services.subscriptions.matching(event)


def subscribe_later(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    """Subscribe a target a second later; return the id, when every container knows."""
    world.sleep(1)
    return id_of_new(world, target, *event_types, **members)


def recipients(world: World, event: Json) -> Any:
    return world.get(f"/events/{event['event_id']}/recipients")["recipients"]


def send(world: World, subscription_id: str, event_id: Any, *, key: str = KEY) -> Answer:
    path = f"/subscriptions/{subscription_id}/send"
    return world.call("POST", path, {"event_id": event_id}, key=key)


def recover(world: World, subscription_id: str, *, key: str = KEY, **members: Any) -> Answer:
    """Recover what was missed since 1970, or with `since` None what did not arrive."""
    body = {"since": rfc3339(0), **members}
    return world.call("POST", f"/subscriptions/{subscription_id}/recover", body, key=key)


def missed(world: World, subscription_id: str, *, key: str = KEY, **query: Any) -> Answer:
    """List what was missed since 1970, or with `since` None what did not arrive."""
    if "subject" not in query:
        query.setdefault("since", rfc3339(0))
    given = urlencode({name: value for name, value in query.items() if value is not None})
    return world.call("GET", f"/subscriptions/{subscription_id}/missed?{given}", key=key)


def send_during(world: World, once: Callable[..., None], subscription_id: str, event: Json) -> None:
    """Send an event, too, while it is sent or recovered."""

    def send_meanwhile() -> None:
        send(world, subscription_id, event["event_id"])

    once(world.dynamodb, "before-call.dynamodb.TransactWriteItems", send_meanwhile)


def deliveries(world: World, subscription_id: str) -> Any:
    return world.get(f"/subscriptions/{subscription_id}?include=deliveries")["deliveries"]


def store_copy(world: World, subscription_id: str, number: int, state: Status, **more: Any) -> None:
    """Store a copy that was made `number` seconds after the start."""
    copy = Event(
        event_id=f"cpy_{world.services.new_id()}",
        created_at=rfc3339(START + number),
        created_by="acme",
        status=state,
        subscription_id=subscription_id,
        response_bytes=2,
        claim_id=world.services.new_id(),
        expires_at=int(START) + 86400,
        **{"event_type": "a", **more},
    )
    world.services.store.put(copy, compressed(copy))
