"""Where events are pushed to, and what its answers mean: the core knows no subscription."""

from dataclasses import dataclass, field
from typing import Protocol

from chalicelib.core.event import Event
from chalicelib.core.outcome import Decision, NotPushed
from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import Json


@dataclass(frozen=True)
class Target:
    """Where events are pushed to: the webhook, or the URL of a subscription, which gets copies."""

    url: str = field(repr=False)
    # What breakers and lanes know it by, whatever its URL: a subscription's id, or WEBHOOK.
    destination: str
    # Whose failures share a rest of the breaker: a tenant's, or the webhook's alone.
    owner: str
    # Each signs every push.
    secrets: tuple[bytes, ...] = field(repr=False)
    # False, without a URL or for a disabled subscription: `POST /events` leaves it to the worker.
    is_enabled: bool
    # The customer sees what fails here: the operator gets no message in the DLQ.
    is_customers: bool = False
    # An error with which each push fails, before it is made.
    fault: str | None = None
    # Whether pushes connect to public addresses alone.
    public_only: bool = False
    headers: Json = field(default_factory=dict, repr=False)
    # Whether the body of a push is the payload, with no other member of the event.
    has_payload_alone: bool = False
    # Pushes have the `webhook-` headers a second time, with this prefix.
    header_prefix: str | None = None

    def body_of(self, event: Event) -> bytes:
        """Return the body of a push of an event: the bytes that are sent and signed."""
        return event.payload.encode() if self.has_payload_alone else event.push_body()


class Targets(Protocol):
    """Where events and their copies go.

    Raises StorageUnavailableError where it does not say otherwise.
    """

    @property
    def webhook(self) -> Target:
        """The target of events themselves."""

    def matching(self, event: Event) -> list[Target]:
        """Return the targets that get a copy of a new event, by recent lists."""

    def find(self, event: Event) -> Target | NotPushed:
        """Return where to push a stored event, of a copy by a consistent read, or what becomes of
        an event that is not pushed.
        """

    def replay_refusal(self, event: Event) -> ApiError | None:
        """Return why an event cannot be replayed, of a copy by a consistent read; None: it can."""

    def on_gone(self, target: Target, event: Event) -> Decision:
        """Disable or end the subscription whose target responded 410; return what follows for the
        event. Raises nothing.
        """

    def on_recorded(self, target: Target, event: Event, decision: Decision) -> None:
        """Take note of a decision that was recorded: set or clear `failing_since` and
        `slow_since`, disable the subscription, report. Raises nothing: errors are logged.
        """
