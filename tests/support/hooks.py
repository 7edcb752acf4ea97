"""A subscription and its receiver as tests use them: post events, script responses, change the
subscription, and look at its copies.
"""

from collections.abc import Callable
from typing import Any

from chalicelib.infra.times import unix_seconds
from tests.support.receiver import Answers, Receiver
from tests.support.world import KEY, Answer, Json, World, assert_has


class Copy:
    """A copy of an event: the event made for one subscription."""

    def __init__(self, world: World, event: Json, copy_id: str) -> None:
        """Refer to a copy that exists.

        :param event: The event, as the POST returned it.
        """
        self.world = world
        self.event = event
        self.id = copy_id

    @property
    def now(self) -> Any:
        """The copy as the API shows it now."""
        return self.world.event(self.id)

    @property
    def status(self) -> Any:
        """The present status of the copy."""
        return self.now["status"]

    @property
    def due_at(self) -> float:
        """When the next attempt is due (Unix seconds)."""
        return unix_seconds(self.now["next_attempt_at"])

    def has(self, **members: object) -> None:
        """Assert that some members of the copy have these values now."""
        assert_has(self.now, **members)

    def replay(self) -> Answer:
        """Replay the copy; return the response."""
        return self.world.replay(self.id)

    def retry(self) -> None:
        """Let time pass until a second after the next attempt is due, and let the worker make the
        attempt.
        """
        seconds_until_due = max(0, self.due_at - self.world.clock())
        self.world.sleep(seconds_until_due + 1)
        self.world.empty_inbox()


class Hook:
    """A subscription to all events of its tenant, and its receiver."""

    def __init__(self, world: World, target: Receiver, *, path: str = "", **members: Any) -> None:
        """Create the subscription.

        :param target: The receiver.
        :param path: A text that is appended to the receiver's URL to make the target URL.
        :param members: Other members of the subscription.
        """
        self.world = world
        self.target = target
        self.url = target.url + path
        self.members = members
        self.make()

    def make(self) -> Answer:
        """Create the subscription, or create it again after it was deleted; return the response.
        If the API refuses the call, `id` is "".
        """
        response = self.world.subscribe(self.url, **self.members)
        self.id = response.json.get("subscription_id", "")
        self.path = f"/subscriptions/{self.id}"
        return response

    @property
    def now(self) -> Any:
        """The subscription as the API shows it now."""
        return self.world.get(self.path)

    @property
    def state(self) -> tuple[str | None, str | None]:
        """The time since which the subscription is failing (None: it is not failing), and the time
        since which it is disabled (None: it is enabled), in RFC 3339.
        """
        return self.now["failing_since"], self.now["disabled_at"]

    @property
    def secret(self) -> Any:
        """The present signing secret of the subscription."""
        return self.world.get(f"{self.path}/secret")["secret"]

    def call(self, verb: str, body: Json | None = None) -> Answer:
        """Make a call of the subscription, such as `enable`."""
        return self.world.call("POST", f"{self.path}/{verb}", body)

    def edit(self, **changes: Any) -> Answer:
        """Change members of the subscription; return the response."""
        return self.world.call("PATCH", self.path, changes)

    def send(self, event: Json, *, key: str = KEY) -> Answer:
        """Send a stored event to the subscription; return the response.

        :param key: The API key of the call.
        """
        return self.world.send_to(self.id, event["event_id"], key=key)

    def send_during(self, once: Callable[..., None], event: Json) -> None:
        """Arrange that the event is sent to the subscription during the next call that sends or
        recovers an event, just before that call writes.

        :param once: The fixture `once`, which calls a function at the next event of botocore that
            has a name, and not again.
        """

        def send_meanwhile() -> None:
            """Send the event in a call of its own."""
            self.send(event)

        once(self.world.dynamodb, "before-call.dynamodb.TransactWriteItems", send_meanwhile)

    def recover(self, **members: Any) -> Answer:
        """Recover the events that the subscription missed; see `Caller.recover`."""
        return self.world.recover(self.id, **members)

    def missed(self, **query: Any) -> Answer:
        """List the events that the subscription missed; see `Caller.missed`."""
        return self.world.missed(self.id, **query)

    def enable(self) -> Answer:
        """Enable the subscription; return the response."""
        return self.call("enable")

    def delete(self) -> None:
        """Delete the subscription."""
        self.world.call("DELETE", self.path)

    def recreate(self) -> None:
        """Delete the subscription, and create it again a second later."""
        self.delete()
        self.world.sleep(1)
        self.make()

    def offer(self, *answers: Answers, **headers: str) -> list[Copy]:
        """Post an event of the subscription's tenant; return the copies of the event for all
        subscriptions.

        :param answers: The receiver's responses to the next pushes, whose script they are added to.
        :param headers: Headers of the POST by name, with `_` in place of `-`.
        """
        self.target.script(*answers)
        body: Json = {"event_type": "a", "payload": {}, "tenant": self.members.get("tenant")}
        event = self.world.offer(body, **headers).json
        return [Copy(self.world, event, copy_id) for copy_id in event["copies"]]

    def post(self, *answers: Answers, **headers: str) -> Copy:
        """Post an event of the subscription's tenant; return its only copy. Raise ValueError if it
        has none or several.

        :param answers: The receiver's responses to the next pushes.
        :param headers: Headers of the POST by name, with `_` in place of `-`.
        """
        [copy] = self.offer(*answers, **headers)
        return copy

    def die(self) -> Copy:
        """Post an event each day, which the receiver refuses with 422, until the subscription is
        disabled; return the copy of the last event.

        SUBSCRIPTION_DISABLE_DAYS must be 1, and the subscription must be enabled.
        """
        while not self.now["disabled_at"]:
            copy = self.post(422)
            self.world.sleep(86_400)
        return copy
