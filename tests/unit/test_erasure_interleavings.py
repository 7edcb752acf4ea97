"""An eraser, POSTs under one key and workers, in every order of their calls, each of which may be the last.

An actor is run again for each step: it gets the responses that it has got before, then makes one more call. Calls that
it makes in parallel are made in turn.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib import delivery
from chalicelib.errors import ApiError
from chalicelib.events import rfc3339
from chalicelib.push import PushResult
from chalicelib.retry import outcome_of
from chalicelib.services import Run, Services
from chalicelib.settings import load
from chalicelib.store import CLAIM_SECONDS
from chalicelib.validation import parse_new_event
from tests.crash.simulated_world import ENVIRON
from tests.support.fake_aws import FakeDynamoDB
from tests.support.world import START, Clock

SUBSCRIPTION = {
    "sort_key": {"S": f"{rfc3339(START)}#sub_{0:032x}"},
    "target_url": {"S": "https://hooks.zapier.com/2"},
    "event_types": {"S": '{"event_types":null,"name":null}'},
    "created_by": {"S": "acme"},
}
NEW_EVENT = parse_new_event(b'{"event_type": "a", "payload": {"p": 1}}', "k")
Outcome = dict[str, Any]  # the response of a call, or an error


class StopError(BaseException):
    """An actor has made its call."""


class SameThread(Executor):
    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        return map(fn, *iterables)


@dataclass(frozen=True)
class State:
    """The table, and of each actor the outcomes of its calls, and how it ended."""

    items: str
    outcomes: tuple[tuple[str, ...], ...]
    endings: tuple[str | None, ...]


class Table:
    """A table that is put into any state, and a client by which an actor makes one call more than before."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dynamodb = FakeDynamoDB(self.clock)
        self.known: dict[str, Any] = {}

    def freeze(self, value: Any) -> str:
        key = repr(value)
        self.known.setdefault(key, value)
        return key

    @property
    def frozen_items(self) -> str:
        return self.freeze(dict(sorted(self.dynamodb.items.items())))

    def enter(self, items: str) -> None:
        self.dynamodb.items = dict(self.known[items])

    def run(self, actor: str, name: str, before: tuple[str, ...] | None) -> tuple[tuple[str, ...], str | None]:
        """Run an actor to its end or, if it got the outcomes `before`, until it has made one call more."""
        outcomes = list(before or ())
        replayed, numbers = iter(before or ()), count()

        def call(operation: str, **parameters: Any) -> Any:
            if operation == "query":
                return {"Count": 1, "Items": [SUBSCRIPTION]}
            if operation.startswith("send"):
                return {}
            if (key := next(replayed, None)) is None:
                if before is not None and len(outcomes) > len(before):
                    raise StopError
                outcomes.append(key := self.freeze(self._make(operation, parameters)))
            outcome: Outcome = self.known[key]
            if "error" in outcome:
                raise ClientError(outcome["error"], operation)
            return outcome["response"]

        client = type("Client", (), {"__getattr__": lambda _, operation: partial(call, operation)})()
        services = Services(
            load(ENVIRON),
            make_client=lambda _: client,
            clock=self.clock,
            new_id=lambda: f"{name}{next(numbers):031x}",
            thread_pool=lambda _: SameThread(),
            push=SimpleNamespace(send=lambda event, *_, **__: call("push", event=event)),  # type: ignore[arg-type]
        )
        try:
            ending: str | None = ACTORS[actor](services)
        except StopError:
            ending = None
        except ApiError as error:
            ending = error.code
        return tuple(outcomes), ending

    def _make(self, operation: str, parameters: dict[str, Any]) -> Outcome:
        if operation == "push":
            event = parameters["event"]
            assert self.dynamodb.items[event.event_id]["claim_id"] == event.claim_id, "pushed under a lost claim"
            return {"response": PushResult(outcome_of(200), status_code=200)}
        try:
            return {"response": getattr(self.dynamodb, operation)(**parameters)}
        except ClientError as error:
            return {"error": error.response}


def post(services: Services, *, respond_async: bool) -> str:
    deadline = services.clock() + 100
    event, is_repeated = delivery.accept(
        NEW_EVENT, Run(services, deadline), created_by="acme", respond_async=respond_async
    )
    return "repeated" if is_repeated else event.event_id


def erase(services: Services) -> str:
    delivery.erase(EVENT_ID, services)
    return "erased"


def push_copy(services: Services) -> str:
    delivery.attempt_delivery(COPY_ID, Run(services, services.clock() + 50))
    return "worked"


ACTORS: dict[str, Callable[[Services], str]] = {
    "post": partial(post, respond_async=False),
    "post async": partial(post, respond_async=True),
    "erase": erase,
    "push copy": push_copy,
}
_first = Table()
_first.run("post async", "s", None)
COPY_ID, EVENT_ID = sorted(_first.dynamodb.items)


def check(table: Table, state: State) -> None:
    items = table.dynamodb.items
    event = items.get(EVENT_ID)
    copies = {key for key in items if key != EVENT_ID}
    if event and event["status"] == "erased":
        assert "content" not in event
    elif event:
        assert copies >= set(json.loads(event["copies"])), "an event without its copy"
    if None not in state.endings:
        listed = set(json.loads(event["copies"])) if event else set()
        assert copies <= listed, "a copy that no event lists"
        if "erased" in state.endings and EVENT_ID not in state.endings:
            assert items == {}, "not erased"


def check_recovery(table: Table, state: State) -> None:
    """Check that what was begun is completed by repeating it when the claims are over."""
    table.enter(state.items)
    table.clock.sleep(CLAIM_SECONDS + 1)
    assert table.run("erase", "e", None)[1] == "erased"
    assert EVENT_ID not in table.dynamodb.items
    assert table.run("post async", "f", None)[1] == EVENT_ID
    check(table, replace(state, endings=(None,)))
    table.clock.sleep(-CLAIM_SECONDS - 1)


@pytest.mark.parametrize(
    ("is_stored", "actors"),
    [
        (False, ("erase", "post", "push copy")),
        (False, ("post", "post async", "push copy")),
        (True, ("erase", "post", "push copy")),
        (True, ("erase", "post async", "push copy")),
        (True, ("erase", "erase", "push copy")),
        (True, ("erase", "post", "post async")),
    ],
)
def test_no_order_of_calls_loses_a_copy_or_leaves_what_was_erased(is_stored: bool, actors: tuple[str, ...]) -> None:
    table = Table()
    if is_stored:
        table.run("post async", "s", None)
    first = State(table.frozen_items, ((),) * len(actors), (None,) * len(actors))
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        for number, actor in enumerate(actors):
            if state.endings[number] is None:
                table.enter(state.items)
                outcomes, ending = table.run(actor, f"{number}", state.outcomes[number])
                after = State(
                    table.frozen_items,
                    (*state.outcomes[:number], outcomes, *state.outcomes[number + 1 :]),
                    (*state.endings[:number], ending, *state.endings[number + 1 :]),
                )
                if after not in seen:
                    check(table, after)
                    check_recovery(table, after)
                    seen.add(after)
                    todo.append(after)
    assert len(seen) > 20
