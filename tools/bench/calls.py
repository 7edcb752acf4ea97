"""Every path of the system, and exactly what it asks of AWS.

`python -m tools.bench.calls` runs them on the world that the tests use (its clock can be turned) and prints JSON: what,
the calls that were made, and those that should be. It wants a process of its own, for moto patches botocore.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import app
from tests.support.aws import Aws
from tests.support.receiver import Receiver, status
from tests.support.world import World, world

EVENT = '{"event_type": "order.created", "payload": {}}'
ABSENT = '{"event_id": "evt_00000000000000000000000000000000"}'

PUT, GET, GET_MANY, UPDATE, QUERY = "PutItem", "GetItem", "BatchGetItem", "UpdateItem", "Query"
SEND, SEND_MANY, DEPTH = "SendMessage", "SendMessageBatch", "GetQueueAttributes"


@dataclass(frozen=True)
class Rig:
    world: World
    receiver: Receiver


Act = Callable[[Rig], object]


@dataclass(frozen=True)
class Path:
    """What is done, after what, and what it should cost. `act` may be a call of the API, `%s` the event of `before`."""

    what: str
    wanted: dict[str, int]
    act: Act | str
    before: Act | None = None


def _post(**headers: str) -> Act:
    return lambda rig: rig.world.call("POST", "/events", EVENT, **headers)


def _answering(*codes: int) -> Act:
    return lambda rig: rig.receiver.script(*map(status, codes))


def _waiting(*codes: int, wait_seconds: int = 0) -> Act:
    """Queue an event, and have the receiver answer its pushes with `codes`."""

    def before(rig: Rig) -> None:
        rig.world.restart(IN_PROCESS_WAIT_SECONDS=str(wait_seconds))
        rig.receiver.script(*map(status, codes))
        rig.world.post(prefer="respond-async")

    return before


def _overdue(count: int) -> Act:
    def before(rig: Rig) -> None:
        for _ in range(count):
            rig.world.post(prefer="respond-async")
        rig.world.clock.sleep(60)

    return before


def _dead(rig: Rig) -> None:
    rig.receiver.script(status(404))
    rig.world.post()


def _moved_back(rig: Rig) -> None:
    _dead(rig)
    rig.world.move_back()


def _breaker_open(rig: Rig) -> None:
    rig.world.restart(BREAKER_FAILURES="1")
    rig.receiver.script(status(503))
    rig.world.post()


def _work(rig: Rig) -> None:
    rig.world.run_worker()


def _sent(body: str) -> Act:
    return lambda rig: rig.world.send(body)


PATHS = (
    Path("POST /events, delivered", {PUT: 1, UPDATE: 1}, _post()),
    Path("POST /events with a new Idempotency-Key", {PUT: 1, UPDATE: 1}, _post(idempotency_key="k")),
    Path("POST /events, the same key again", {PUT: 1}, _post(idempotency_key="k"), _post(idempotency_key="k")),
    Path("POST /events, to be tried again", {PUT: 1, UPDATE: 1, SEND: 1}, _post(), _answering(503)),
    Path("POST /events, refused for good", {PUT: 1, SEND: 1, UPDATE: 1}, _post(), _answering(404)),
    Path("POST /events, respond-async", {PUT: 1, SEND: 1}, _post(prefer="respond-async")),
    Path("POST /events, breaker open", {PUT: 1, SEND: 1}, _post(), _breaker_open),
    Path("POST /events, a key that is not known", {}, _post(key="wrong")),
    Path("worker, delivered", {UPDATE: 2}, _work, _waiting(200)),
    Path("worker, to be tried again", {UPDATE: 2, SEND: 1}, _work, _waiting(503)),
    Path("worker, the third try in one invocation", {UPDATE: 6}, _work, _waiting(503, 503, 200, wait_seconds=8)),
    Path("worker, refused for good", {UPDATE: 2, SEND: 1}, _work, _waiting(404)),
    Path("worker, a dead letter that came back", {UPDATE: 3}, _work, _moved_back),
    Path("worker, an event that is not there", {UPDATE: 1, SEND: 1}, _work, _sent(ABSENT)),
    Path("worker, not a message", {SEND: 1}, _work, _sent("malformed")),
    Path("GET /events/{event_id}", {GET: 1}, "GET /events/%s", _dead),
    Path("GET /events", {QUERY: 24}, "GET /events", _dead),
    Path("GET /events of one status", {QUERY: 8}, "GET /events?status=failed", _dead),
    Path("GET /inbox", {QUERY: 16, GET_MANY: 1}, "GET /inbox", _dead),
    Path("acknowledge", {UPDATE: 1}, "POST /events/%s/acknowledge", _dead),
    Path("replay", {UPDATE: 1, SEND: 1}, "POST /events/%s/replay", _dead),
    Path("sweep, nothing to do", {DEPTH: 1, QUERY: 8}, lambda rig: rig.world.run_schedule(app.sweep)),
    Path(
        "sweep, one event overdue",
        {DEPTH: 1, QUERY: 8, UPDATE: 1, SEND_MANY: 1},
        lambda rig: rig.world.run_schedule(app.sweep),
        _overdue(1),
    ),
    Path("check_dlq", {DEPTH: 2, QUERY: 8}, lambda rig: rig.world.run_schedule(app.check_dlq)),
)


def main() -> None:
    logging.getLogger("moto").setLevel(logging.CRITICAL)  # it knows no alarms, and says so for each
    counted = []
    with Receiver() as receiver, world(receiver.url) as system:
        rig = Rig(system, receiver)
        for path in PATHS:
            system.forget()
            receiver.script()
            if path.before:
                path.before(rig)
            aws = Aws(system)
            counted.append((path.what, Counter(aws.during(_acting(path.act, rig))), path.wanted))
            aws.let_go()
    print(json.dumps(counted))


def _acting(act: Act | str, rig: Rig) -> Callable[[], object]:
    if callable(act):
        return partial(act, rig)
    method, path = act.split(" ")
    stored = rig.world.call("GET", "/events").json["events"]
    return partial(rig.world.call, method, path.replace("%s", stored[0]["event_id"]) if stored else path)


if __name__ == "__main__":
    main()
