"""Where events are pushed to, and what its answers mean: the core knows no subscription."""

from dataclasses import dataclass, field
from typing import Protocol

from chalicelib.core.event import Event
from chalicelib.core.outcome import Decision, NotPushed
from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import Json


@dataclass(frozen=True)
class Target:
    """Where events are pushed to: the webhook, or the target of a subscription, which gets copies.

    `destination` names it to the breakers, whatever its URL: the id of a subscription, or the
    webhook. `owner` is whose it is: a tenant's, or the webhook alone. Pushes are signed with each
    of `secrets`. One that is not `is_enabled`, the webhook without URL or a disabled subscription,
    is left to the worker; one that has a `fault` fails without a push. What fails at one that
    `is_customers` is the customer's to see: the operator gets no message in the DLQ. Pushes to one
    that `has_payload_alone` tell nothing else of the event in their body. Those to one with a
    `header_prefix` have the `webhook-` headers a second time, with that prefix.
    """

    url: str = field(repr=False)
    destination: str
    owner: str
    secrets: tuple[bytes, ...] = field(repr=False)
    is_enabled: bool
    is_customers: bool = False
    fault: str | None = None
    public_only: bool = False
    headers: Json = field(default_factory=dict, repr=False)
    has_payload_alone: bool = False
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
