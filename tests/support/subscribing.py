"""Functions that became methods of `World`, for the last files that call them."""

from typing import Any

from tests.support.receiver import Receiver
from tests.support.world import Answer, Json, World, read_lists

__all__ = ["read_lists"]


def subscribe(world: World, target: str | Receiver, *event_types: str, **members: Any) -> Answer:
    return world.subscribe(target, *event_types, **members)


def make_token(world: World, tenant: str, **members: Any) -> str:
    return world.make_token(tenant, **members)


def subscriptions(world: World, tenant: str | None = None) -> Any:
    return world.subscriptions(tenant)


def subscribed(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    return world.subscribe(target, *event_types, **members).location


def id_of_new(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    return world.subscribe(target, *event_types, **members).new_id


def post_for(world: World, tenant: str | None) -> Any:
    return world.post_for(tenant)


def post_later(world: World, payload: Json | None = None, **members: object) -> Any:
    return world.post_later(payload, **members)


def copies(world: World, event: Json) -> list[Json]:
    return world.copies(event)


def states(world: World, event: Json) -> list[str]:
    return world.states(event)


def ids(answer: Answer) -> list[str]:
    return answer.event_ids


def listed(world: World, path: str = "/inbox") -> list[str]:
    return world.listed(path)


def subscribe_later(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    return world.subscribe_later(target, *event_types, **members)


def send(world: World, subscription_id: str, event_id: Any, **key: str) -> Answer:
    return world.send_to(subscription_id, event_id, **key)


def recover(world: World, subscription_id: str, **members: Any) -> Answer:
    return world.recover(subscription_id, **members)
