"""`make e2e`: the package, deployed to an emulated AWS, does what it is for. One line for each thing that is proven.

Goes through API Gateway, Lambda, SQS, DynamoDB, EventBridge and CloudWatch as the template sets them up, and with the
rights that its policies give. What the emulator does not do is done by hand here, and the line says so.
"""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from standardwebhooks import Webhook, WebhookVerificationError

from chalicelib import __version__
from chalicelib.events import rfc3339
from tests.support.receiver import SECRET_PATH, Receiver, Request, status
from tools import api_key, emulator
from tools import stage as stages
from tools.emulator import Emulator, EmulatorError, Stack
from tools.package import package

T = TypeVar("T")

STAGE = "dev"
STACK = f"triggers-api-{STAGE}"
LOG_FILE = emulator.ROOT / ".local" / "e2e.log"
SIGNING_SECRET = "whsec_" + base64.b64encode(b"the secret of a run of make e2e").decode()
WORDS = "only-for-the-receiver"
PAYLOAD = {"order_id": "12345", "note": f"Grüße, 世界, {WORDS}", "cents": 12345678901234567890}
SOON_SECONDS = 30.0
SWEEP_SECONDS = 90.0  # EventBridge starts a rate a minute after its rule is made, and then the worker has to push
POLL_SECONDS = 0.25
VISIBLE = "ApproximateNumberOfMessages"  # its metric has another name
SCHEDULED = {
    "version": "0",
    "id": "9f2c6a52-0f2b-4bb5-9c1e-1f5f4a1f7f0a",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "000000000000",
    "time": "2026-01-01T00:00:00Z",
    "region": emulator.REGION,
    "resources": [],
    "detail": {},
}
METRIC = "ApproximateNumberOfMessagesVisible"


class UnprovenError(Exception):
    """Something is not as it was promised: `str()` says what is, and what should be."""


@dataclass(frozen=True)
class Answer:
    """One answer of API Gateway."""

    status_code: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class System:
    """What is deployed, and the hands and eyes that a caller, a receiver and an operator have on it."""

    def __init__(self, aws: Emulator, stack: Stack, receiver: Receiver, key: str) -> None:
        self.stack = stack
        self.receiver = receiver
        self.table = stack.outputs["EventsTableName"]
        self.inbox = stack.outputs["InboxQueueUrl"]
        self.dlq = stack.outputs["InboxDLQUrl"]
        self.topic = stack.outputs["DLQAlarmTopicArn"]
        self.dynamodb, self.sqs, self.sns = aws.client("dynamodb"), aws.client("sqs"), aws.client("sns")
        self.functions, self.events = aws.client("lambda"), aws.client("events")
        self.cloudwatch, self.logs = aws.client("cloudwatch"), aws.client("logs")
        self._port = aws.port
        self._path = f"/restapis/{stack.outputs['RestAPIId']}/{stages.API_STAGE}/_user_request_"
        self._key = key
        self.secrets = {
            "the webhook's path": "secret-path",
            "its query": "secret-query",
            "the API key": key,
            "the signing secret": SIGNING_SECRET.removeprefix("whsec_"),
            "a payload": WORDS,
        }

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call the API with the key, unless `headers` have another Authorization."""
        given = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", **headers}
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=40)) as connection:
            connection.request(method, self._path + path, content, given)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def post(self, event_type: str, payload: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Post an event and return what the caller is told of it."""
        answer = self.call("POST", "/events", {"event_type": event_type, "payload": payload}, **headers)
        same("POST /events", answer.status_code, 202)
        event: dict[str, Any] = answer.json
        same("Location", answer.headers["Location"], f"/events/{event['event_id']}")
        return event

    def event(self, event_id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/events/{event_id}")
        same("GET /events/{event_id}", answer.status_code, 200)
        event: dict[str, Any] = answer.json
        return event

    def delivered(self, event_id: str, within_seconds: float = SOON_SECONDS) -> dict[str, Any]:
        """Return the event as soon as it is delivered."""

        def look() -> dict[str, Any] | None:
            event = self.event(event_id)
            return event if event["status"] == "delivered" else None

        return until(f"{event_id} is delivered", look, within_seconds)

    def in_inbox(self, event_id: str) -> bool:
        answer = self.call("GET", "/inbox?limit=100")
        same("GET /inbox", answer.status_code, 200)
        return any(event["event_id"] == event_id for event in answer.json["events"])

    def pushes(self, event_id: str) -> list[Request]:
        return [push for push in self.receiver.requests if push.headers.get("webhook-id") == event_id]

    def messages(self, queue_url: str) -> int:
        """Return how many messages a queue holds, visible or not."""
        names = [VISIBLE, "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)

    def receive(self, queue_url: str, visibility_seconds: int) -> dict[str, Any]:
        """Return the next message of a queue. Briefly polled: ministack gives messages to clients that are gone."""

        def look() -> dict[str, Any] | None:
            messages = self.sqs.receive_message(
                QueueUrl=queue_url,
                VisibilityTimeout=visibility_seconds,
                WaitTimeSeconds=0,
                MessageAttributeNames=["All"],
            ).get("Messages")
            return messages[0] if messages else None

        return until(f"a message in {queue_url.rsplit('/', 1)[-1]}", look)

    def logged(self) -> list[tuple[str, str]]:
        """Return everything that the functions logged: group and text."""
        groups = [group["logGroupName"] for group in self.logs.describe_log_groups()["logGroups"]]
        pages = self.logs.get_paginator("filter_log_events")
        return [
            (group, event["message"])
            for group in groups
            for page in pages.paginate(logGroupName=group)
            for event in page["events"]
        ]

    def complaints(self) -> list[str]:
        """Return what was logged that is no JSON line of level INFO: warnings, errors, traces."""
        usual = re.compile(r'START |END |REPORT |{"_aws"|{.*"level": "INFO"')
        return [f"{group}: {text.rstrip()}" for group, text in self.logged() if not usual.match(text)]


def same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise UnprovenError(f"{what}: {found!r} instead of {expected!r}")


def holds(what: str, found: bool) -> None:
    if not found:
        raise UnprovenError(f"not so: {what}")


def until(what: str, look: Callable[[], T | None], within_seconds: float = SOON_SECONDS) -> T:
    """Return what `look` gives as soon as it is something."""
    deadline = time.monotonic() + within_seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise UnprovenError(f"not within {within_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)


def say(proven: str) -> None:
    print(f"ok  {proven}", flush=True)


def package_and_deploy(aws: Emulator, receiver: Receiver, key_entry: str) -> Stack:
    with tempfile.TemporaryDirectory() as directory:
        with contextlib.redirect_stdout(io.StringIO()):
            package(STAGE, {}, Path(directory))
        stack = aws.deploy(
            STACK,
            Path(directory),
            {
                "Stage": STAGE,
                "AlarmEmail": "operator@example.com",
                "ZapierWebhookUrl": receiver.url,
                "ApiKeys": key_entry,
                "WebhookSigningSecrets": SIGNING_SECRET,
            },
        )
    say(f"package: one template, deployed as one stack of {len(stack.resources)} resources")
    return stack


def answers(system: System) -> None:
    health = system.call("GET", "/health")
    same("GET /health", (health.status_code, health.json["status"], health.json["stage"]), (200, "ok", STAGE))
    refused = system.call("POST", "/events", {}, Authorization="Bearer wrong")
    same("POST /events with a wrong key", refused.status_code, 401)
    say("API Gateway and Lambda: GET /health 200; a wrong key 401")


def accepts_while_sqs_refuses(system: System) -> str:
    """Leave behind an event that is stored and was never queued, and return its id."""
    refusal = {"Effect": "Deny", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [refusal]})
    system.sqs.set_queue_attributes(QueueUrl=system.inbox, Attributes={"Policy": policy})
    event = system.post("e2e.forgotten", {}, Prefer="respond-async")
    same("status", event["status"], "pending")
    same("messages in the inbox queue", system.messages(system.inbox), 0)
    system.sqs.set_queue_attributes(QueueUrl=system.inbox, Attributes={"Policy": ""})
    say("POST while SQS refuses every message: 202, the event is stored")
    event_id: str = event["event_id"]
    return event_id


def delivers(system: System) -> None:
    event = system.post("order.created", PAYLOAD)
    same("status", event["status"], "delivered")
    (push,) = system.pushes(event["event_id"])
    body = {
        "event_id": event["event_id"],
        "event_type": "order.created",
        "payload": PAYLOAD,
        "metadata": None,
        "created_at": event["created_at"],
    }
    compact = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    same("the push", (push.method, push.path, push.body), ("POST", SECRET_PATH, compact))
    same("Content-Type", push.headers["content-type"], "application/json")
    same("User-Agent", push.headers["user-agent"], f"triggers-api/{__version__}")
    try:
        Webhook(SIGNING_SECRET).verify(push.body, dict(push.headers))
    except WebhookVerificationError as error:
        raise UnprovenError(f"webhook-signature: {error}") from error
    stored = system.event(event["event_id"])
    same("GET /events/{event_id}", (stored["payload"], stored["delivery_attempts"]), (PAYLOAD, 1))
    say("POST: 202, delivered; the receiver got the event with its headers and a signature that verifies")


def retries(system: System) -> None:
    system.receiver.script(status(503), status(503))
    event = system.post("order.paid", {"order_id": "12345"})
    same("after a 503", (event["status"], event["delivery_attempts"]), ("pending", 1))
    attempts = system.delivered(event["event_id"])["attempts"]
    outcomes = [(attempt["outcome"], attempt["status_code"]) for attempt in attempts]
    same("attempts", outcomes, [("retry", 503), ("retry", 503), ("delivered", 200)])
    same("pushes with this webhook-id", len(system.pushes(event["event_id"])), 3)
    until("the inbox queue is empty", lambda: system.messages(system.inbox) == 0)
    say("503 twice: the worker is started by its event source mapping, retries, delivers; the queue is empty")


def buries(system: System) -> str:
    """Return the id of an event that is a dead letter now."""
    system.receiver.script(status(404))
    event = system.post("order.lost", {"order_id": "12346"})
    event_id: str = event["event_id"]
    stored = system.event(event_id)
    same("status", (event["status"], stored["status"]), ("failed", "failed"))
    holds("the event is in GET /inbox", system.in_inbox(event_id))
    letter = system.receive(system.dlq, visibility_seconds=0)
    told = json.loads(letter["Body"])
    found = (told["event_id"], told["reason"], told["last_status_code"], told["delivery_attempts"])
    same("the dead letter", found, (event_id, "permanent", 404, 1))
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    same("its attributes", attributes, {"EventId": event_id, "Reason": "permanent"})
    say("404: a dead letter with reason permanent; the event is failed and stays in GET /inbox")
    return event_id


def checks_dlq(system: System) -> None:
    function = system.stack.resources["CheckDlq"]
    answer = system.functions.invoke(FunctionName=function, Payload=json.dumps(SCHEDULED), LogType="Tail")
    holds("check_dlq does not raise", "FunctionError" not in answer)
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    metrics = next(line for line in told if "_aws" in line)
    same("DLQDepth", (metrics["Stage"], metrics["DLQDepth"]), (STAGE, 1))
    holds("OldestPendingAge tells of the event that was never queued", metrics["OldestPendingAge"] > 0)
    holds("the log warns", any(line.get("message") == "dead letters are waiting" for line in told))
    scheduled_as("CheckDlqCheckDlqEvent", "rate(5 minutes)", function, system)
    say("check_dlq, invoked: depths and age as metrics, and a warning; its rule is there, five minutes were not waited")


def scheduled_as(rule_id: str, rate: str, function: str, system: System) -> None:
    rule = system.events.describe_rule(Name=system.stack.resources[rule_id])
    same("the rule", (rule["ScheduleExpression"], rule["State"]), (rate, "ENABLED"))
    (target,) = system.events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    same("its target", target["Arn"].rsplit(":", 1)[-1], function)


def alarms(system: System) -> None:
    """A number for SQS's metric has to be put by hand, since the emulator's SQS publishes none."""
    name = system.stack.resources["DLQAlarm"]
    (alarm,) = system.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    dimensions = [{"Name": "QueueName", "Value": system.dlq.rsplit("/", 1)[-1]}]
    same("what the alarm watches", (alarm["Namespace"], alarm["MetricName"]), ("AWS/SQS", METRIC))
    same("its dimensions", alarm["Dimensions"], dimensions)
    same("its actions", (alarm["AlarmActions"], alarm["OKActions"]), ([system.topic], [system.topic]))
    subscriptions = system.sns.list_subscriptions_by_topic(TopicArn=system.topic)["Subscriptions"]
    same("who is mailed", [(s["Protocol"], s["Endpoint"]) for s in subscriptions], [("email", "operator@example.com")])
    ear = listen(system)
    depth = system.sqs.get_queue_attributes(QueueUrl=system.dlq, AttributeNames=[VISIBLE])["Attributes"][VISIBLE]
    datum = {"MetricName": METRIC, "Dimensions": dimensions, "Value": int(depth), "Unit": "Count"}
    system.cloudwatch.put_metric_data(Namespace="AWS/SQS", MetricData=[datum])
    until("the topic is told of the alarm", lambda: heard(system, ear) == (name, "ALARM"))
    say("the alarm watches the dead letter queue; told its depth by hand, it tells the topic that mails")


def listen(system: System) -> str:
    """Return the URL of a queue that gets what is published to the alarms' topic."""
    url: str = system.sqs.create_queue(QueueName="e2e-ear")["QueueUrl"]
    arn = system.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    publish = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
    policy = {"Version": "2012-10-17", "Statement": [{**publish, "Resource": arn}]}
    system.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    system.sns.subscribe(TopicArn=system.topic, Protocol="sqs", Endpoint=arn)
    return url


def heard(system: System, ear: str) -> tuple[str, str]:
    """Return the name and the new state of the next alarm that the topic was told of; there are several alarms."""
    notification = json.loads(system.receive(ear, visibility_seconds=600)["Body"])
    told = json.loads(notification["Message"])
    return told["AlarmName"], told["NewStateValue"]


def replays(system: System, event_id: str) -> None:
    """Move the dead letter as SQS's move task would, which no emulator runs."""
    letter = system.receive(system.dlq, visibility_seconds=30)
    system.sqs.send_message(
        QueueUrl=system.inbox, MessageBody=letter["Body"], MessageAttributes=letter["MessageAttributes"]
    )
    system.sqs.delete_message(QueueUrl=system.dlq, ReceiptHandle=letter["ReceiptHandle"])
    event = system.delivered(event_id)
    same("attempts since the replay", event["delivery_attempts"], 1)
    holds("the event is not in GET /inbox", not system.in_inbox(event_id))
    same("messages in the dead letter queue", system.messages(system.dlq), 0)
    say("the dead letter, moved back to the inbox queue by hand: its event is replayed and delivered")


def pulls_and_replays(system: System) -> None:
    system.receiver.script(status(410))
    event_id = system.post("order.shipped", {"order_id": "12347"})["event_id"]
    same("POST .../acknowledge", system.call("POST", f"/events/{event_id}/acknowledge").status_code, 204)
    same("delivered_via", system.event(event_id)["delivered_via"], "pull")
    same("POST .../replay", system.call("POST", f"/events/{event_id}/replay").status_code, 202)
    same("delivered_via", system.delivered(event_id)["delivered_via"], "push")
    say("POST /events/{event_id}/acknowledge: delivered by pull; .../replay: pushed again, by the worker")


def sweeps(system: System, event_id: str) -> None:
    """The minute in which the sweep leaves an event alone is taken off in the table: a run need not wait for two."""
    scheduled_as("SweepSweepEvent", "rate(1 minute)", system.stack.resources["Sweep"], system)
    system.dynamodb.update_item(
        TableName=system.table,
        Key={"event_id": {"S": event_id}},
        UpdateExpression="SET requeue_at = :now",
        ExpressionAttributeValues={":now": {"S": rfc3339(time.time())}},
    )
    system.delivered(event_id, within_seconds=SWEEP_SECONDS)
    same("pushes", len(system.pushes(event_id)), 1)
    group = stages.log_group(STAGE, "sweep")
    until("the sweep logs it", lambda: any('"queued": 1' in text for where, text in system.logged() if where == group))
    say("the sweep, started by its rule: the event that was never queued is found and delivered")


def keeps_secrets(system: System) -> None:
    logged = system.logged()
    groups = {stages.log_group(STAGE, function) for function in stages.FUNCTIONS}
    same("log groups that hold something", {group for group, _ in logged}, groups)
    for what, secret in system.secrets.items():
        holds(f"no log holds {what}", all(secret not in text for _, text in logged))
    say(f"logs, {len(logged)} lines in CloudWatch: none holds {', '.join(system.secrets)}")


def keeps_the_table(system: System, aws: Emulator) -> None:
    aws.delete(STACK)
    same("queues that are left", system.sqs.list_queues(QueueNamePrefix=STACK).get("QueueUrls", []), [])
    holds("the table has its events", system.dynamodb.scan(TableName=system.table, Select="COUNT")["Count"] > 0)
    say("the stack is deleted; the table, with its events, is kept")


def prove(system: System) -> None:
    answers(system)
    forgotten = accepts_while_sqs_refuses(system)
    delivers(system)
    retries(system)
    dead = buries(system)
    checks_dlq(system)
    alarms(system)
    replays(system, dead)
    pulls_and_replays(system)
    sweeps(system, forgotten)
    keeps_secrets(system)


def forget_environment() -> None:
    """What is set for a person's own stages and accounts has no part in this."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "WORKER_")) or name == "STAGE":
            del os.environ[name]
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ |= {**nothing, "AWS_DEFAULT_REGION": emulator.REGION, "STAGE": STAGE}


def run() -> None:
    forget_environment()
    LOG_FILE.parent.mkdir(exist_ok=True)
    python = emulator.install()
    key = api_key.new_key()
    with Receiver() as receiver, emulator.running(python, LOG_FILE) as aws:
        stack = package_and_deploy(aws, receiver, api_key.entry("e2e", key))
        system = System(aws, stack, receiver, key)
        try:
            prove(system)
        except UnprovenError:
            print(*system.complaints(), sep="\n", file=sys.stderr)
            raise
        keeps_the_table(system, aws)


def fail(reason: str) -> int:
    print(f"make e2e: {reason}\n(the emulator's log is {os.path.relpath(LOG_FILE)})", file=sys.stderr)
    return 1


def main() -> int:
    # Set them all: the emulator, in a session of its own, gets none; and a shell's background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        run()
    except KeyboardInterrupt:
        print("make e2e: stopped", file=sys.stderr)
        return 1
    except (UnprovenError, EmulatorError) as error:
        return fail(str(error))
    except (BotoCoreError, ClientError, OSError, http.client.HTTPException) as error:
        return fail(f"{type(error).__name__}: {error}")
    print(f"all proven in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
