"""Functions that became methods of `World`, for the last file that calls them."""

from typing import Any

from tests.support.receiver import Receiver
from tests.support.world import Json, World


def post_later(world: World, payload: Json | None = None, **members: object) -> Any:
    return world.post_later(payload, **members)


def states(world: World, event: Json) -> list[str]:
    return world.states(event)


def subscribe_later(world: World, target: str | Receiver, *event_types: str, **members: Any) -> str:
    return world.subscribe_later(target, *event_types, **members)
