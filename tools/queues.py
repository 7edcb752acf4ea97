"""Receive messages of a queue: on AWS, Lambda does that for the functions."""

from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import BATCH_SIZE, GROUP_ID, Message, Queue


class ReadableQueue(Queue):
    """A queue whose messages are received here."""

    def receive(self, max_messages: int = BATCH_SIZE, wait_seconds: int = 20) -> list[Message]:
        """Receive up to `max_messages` (1 to 10) messages.

        If there is none, wait up to `wait_seconds` (0 to 20) for the first.
        """
        response = self._call(
            "receive_message",
            {},
            MaxNumberOfMessages=max_messages,
            WaitTimeSeconds=wait_seconds,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=[GROUP_ID],
        )
        return [
            Message.from_record(_to_record(message)) for message in response.get("Messages", ())
        ]


def _to_record(message: Json) -> Json:
    """Return a message as Lambda gives it to a function."""
    attributes = message.get("MessageAttributes", {})
    return {
        "body": message["Body"],
        "messageAttributes": {
            name: {"stringValue": value.get("StringValue")} for name, value in attributes.items()
        },
        "attributes": message.get("Attributes", {}),
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
    }
