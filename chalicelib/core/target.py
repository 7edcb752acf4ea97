"""The targets of pushes, as the core knows them: it knows no subscription."""

from dataclasses import dataclass, field
from typing import Protocol

from chalicelib.core.event import Event
from chalicelib.core.outcome import Decision, NotPushed
from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import Json


@dataclass(frozen=True)
class Target:
    """Where events are pushed to: the webhook, or the URL of a subscription, which gets copies."""

    # The URL, which is a secret; empty: the stage has no webhook.
    url: str = field(repr=False)
    # The name by which breakers and lanes know it, whatever its URL: a subscription's id, or
    # WEBHOOK.
    destination: str
    # The owner, whose destinations share a rest of the breaker: a tenant, or WEBHOOK.
    owner: str
    # The signing secrets, each of which signs every push.
    secrets: tuple[bytes, ...] = field(repr=False)
    # Whether `POST /events` may push to it at once; False without a URL, or for a subscription that
    # is disabled or whose tenant is suspended.
    is_enabled: bool
    # Whether it is a customer's: of events that fail, the operator gets no message in the DLQ.
    is_customers: bool = False
    # The error with which each push fails without a request; None: pushes are made.
    fault: str | None = None
    # Whether pushes connect to public addresses alone.
    public_only: bool = False
    # Additional headers of each push, whose values are secrets.
    headers: Json = field(default_factory=dict, repr=False)
    # Whether the body of a push is the payload, with no other member of the event.
    has_payload_alone: bool = False
    # The prefix with which pushes have the `webhook-` headers a second time; None: once alone.
    header_prefix: str | None = None

    def body_of(self, event: Event) -> bytes:
        """Return the body of a push of an event: the bytes that are sent and signed."""
        return event.payload.encode() if self.has_payload_alone else event.push_body()


class Targets(Protocol):
    """Finds the targets of events and copies, and follows up what became of their pushes.

    Methods raise StorageUnavailableError where they do not say otherwise.
    """

    @property
    def webhook(self) -> Target:
        """The target of events themselves."""

    def matching(self, event: Event) -> list[Target]:
        """Return the targets of the subscriptions that get a copy of a new event. The subscriptions
        may have been read some seconds ago.
        """

    def find(self, event: Event) -> Target | NotPushed:
        """Return the target to which a stored event or copy is pushed. If it is not to be pushed,
        because there is no URL or its subscription is disabled or deleted, return the decision to
        record instead.

        The subscription of a copy is read consistently.
        """

    def replay_refusal(self, event: Event) -> ApiError | None:
        """Return the error 409 for which an event or copy cannot be replayed now, such as that its
        subscription is disabled; None: it can be replayed.

        The subscription of a copy is read consistently.
        """

    def on_gone(self, target: Target, event: Event) -> Decision:
        """Disable or delete the subscription whose target responded 410; return the decision for
        the event or copy. Raises nothing.
        """

    def on_recorded(self, target: Target, event: Event, decision: Decision) -> None:
        """Follow up a decision that was recorded: set or clear `failing_since` and `slow_since`,
        disable the subscription, report. Raises nothing: errors are logged.
        """
