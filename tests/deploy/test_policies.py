"""Each function may do what it does, and nothing else."""

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest
from chalice.config import Config

from chalicelib.infra.times import rfc3339
from tests.conftest import During
from tests.support.iam import BATCHES, Request, is_allowed
from tests.support.receiver import Receiver
from tests.support.world import ROOT, Json, World

CONFIG = json.loads((ROOT / ".chalice" / "config.json").read_text())

# What Lambda does for the event source, with the role of the function.
EVENT_SOURCE, SLOW_EVENT_SOURCE = (
    {
        (f"sqs:{action}", f"triggers-api-dev-{queue}-queue")
        for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
    }
    for queue in ("inbox", "slow")
)
EARLIER_SWEEP = {
    (f"sqs:{action}", "triggers-api-dev-slow-queue")
    for action in ("GetQueueAttributes", "SendMessage")
}


def allowed(stage: str, function: str) -> set[tuple[str, str]]:
    """Return the actions and resources of a policy; account and region of its ARNs are
    wildcards.
    """
    file = Config(stage, function, config_from_disk=CONFIG).iam_policy_file
    statements = json.loads((ROOT / ".chalice" / file).read_text())["Statement"]
    assert {statement["Effect"] for statement in statements} == {"Allow"}
    return {
        (action, resource.split(":", 5)[5].removeprefix("table/"))
        for statement in statements
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


# Each of these prepares a system, and then lets one function do all that it may do.


def use_the_api(world: World, receiver: Receiver) -> Iterator[None]:
    receiver.script(200, 503, 422)
    yield
    delivered = world.post()
    retried = world.post()
    dead = world.post()
    listed = f"/events?subscription_id=sub_{'0' * 32}"
    event = f"/events/{delivered['event_id']}"
    undelivered = f"{listed}&status=undelivered"
    lists = ("/events", "/events?tenant=a", listed, undelivered, "/inbox", "/subscriptions")
    for path in (event, *lists):
        assert world.call("GET", path).status_code == 200
    assert world.acknowledge(retried["event_id"]).status_code == 204
    assert world.replay(dead["event_id"]).status_code == 202
    assert world.call("POST", "/inbox/lease").status_code == 200
    subscription = world.subscribe(receiver, "copied")
    world.post(event_type="copied", prefer="respond-async")
    assert world.call("DELETE", subscription.location).status_code == 204
    later = world.subscribe(receiver).location
    body = {"event_id": delivered["event_id"]}
    assert world.call("POST", f"{later}/send", body).status_code == 202
    since = delivered["created_at"]
    assert world.call("GET", f"{later}/missed?since={since}").json["events"]
    assert world.call("POST", f"{later}/recover", {"since": since}).json["sent"] > 0
    take_webhook_for_slow(world)
    world.post()


def take_webhook_for_slow(world: World) -> None:
    world.services.lanes.remember(world.services.targets.webhook, world.clock(), world.clock())


def use_the_worker(world: World, receiver: Receiver) -> Iterator[None]:
    subscription = world.subscribe(receiver, "copied")
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    world.post(event_type="copied", prefer="respond-async")
    world.call("DELETE", subscription.location)
    reported = world.subscribe(receiver, "triggers.*").new_id
    world.subscribe(f"{receiver.url}&other", "triggers.*")
    now = {"S": "2026-11-27T00:00:00.000000Z"}
    world.change_item(reported, "SET disabled_at = :now", now=now)
    failing = world.subscribe(f"{receiver.url}&failing", "failing").new_id
    world.change_item(failing, "SET failing_since = :ago", ago={"S": "2026-01-01T00:00:00Z"})
    [exhausted] = world.post(event_type="failing", prefer="respond-async")["copies"]
    world.change_item(exhausted, "SET delivery_attempts = :all", all={"N": "45"})
    receiver.script(200, 503, 422)
    for _ in range(3):
        world.post(prefer="respond-async")
    world.send_message("malformed")
    world.restart()  # a container that has not read the subscriptions
    yield
    world.run_worker()
    take_webhook_for_slow(world)
    world.send_message("sent on")
    world.run_worker()


def use_the_sweep(world: World, receiver: Receiver) -> Iterator[None]:
    world.subscribe(receiver)
    world.post(prefer="respond-async")
    world.change_item(world.queued(), "SET expires_at = :past", past={"N": "1"})
    waiting = world.post(prefer="respond-async")["event_id"]
    later = {"S": rfc3339(world.clock() + 3000)}
    world.change_item(waiting, "SET next_attempt_at = :later", later=later)
    for destination in ("webhook", "sub_gone"):
        world.services.store.start_catch_up(destination)
    world.sleep(120)
    yield
    world.sweep()
    world.sleep(120)
    take_webhook_for_slow(world)
    world.sweep()


def use_check_dlq(world: World, receiver: Receiver) -> Iterator[None]:
    yield
    world.check_dlq()


@pytest.mark.parametrize(
    "function, use",
    [
        ("api_handler", use_the_api),
        ("worker", use_the_worker),
        ("sweep", use_the_sweep),
        ("check_dlq", use_check_dlq),
    ],
)
def test_a_policy_allows_what_its_function_does_and_nothing_else(
    function: str,
    use: Callable[[World, Receiver], Iterator[None]],
    world: World,
    receiver: Receiver,
    during: During,
) -> None:
    seen = set()

    def note(params: Json, model: Any, **_: object) -> None:
        action = f"{model.service_model.service_name}:{BATCHES.get(model.name, model.name)}"
        tables = (
            [params["TableName"]] if "TableName" in params else list(params.get("RequestItems", ()))
        )
        index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
        queues = [params["QueueUrl"].rsplit("/", 1)[-1]] if "QueueUrl" in params else []
        for item in params.get("TransactItems", ()):
            [(name, write)] = item.items()
            seen.add((f"dynamodb:{name}Item", write["TableName"]))
        seen.update(
            (action, resource) for resource in [*(table + index for table in tables), *queues]
        )

    steps = use(world, receiver)
    next(steps)
    for client in (world.dynamodb, world.sqs):
        during(client, "before-parameter-build", note)
    next(steps, None)
    event_source = EVENT_SOURCE if function == "worker" else set()
    # Functions of 0.8 beside those of now, and after an undo.
    earlier = EARLIER_SWEEP if function == "sweep" else set()
    suffix = "" if function == "api_handler" else f"-{function}"
    group = f"log-group:/aws/lambda/triggers-api-dev{suffix}:*"
    logs = {("logs:CreateLogStream", group), ("logs:PutLogEvents", group)}
    secret = {("secretsmanager:GetSecretValue", "secret:triggers-api-dev-settings-??????")}

    for stage in CONFIG["stages"]:
        assert allowed(stage, function) == {
            (action, resource.replace("triggers-api-dev", f"triggers-api-{stage}"))
            for action, resource in seen | event_source | earlier | logs | secret
        }


def test_the_worker_of_the_slow_lane_may_do_the_same_with_its_own_queue() -> None:
    worker = allowed("dev", "worker")
    slow_worker = allowed("dev", "slow_worker")
    assert {pair for pair in worker - slow_worker if "log" not in pair[0]} == EVENT_SOURCE
    assert {pair for pair in slow_worker - worker if "log" not in pair[0]} == SLOW_EVENT_SOURCE


@pytest.mark.parametrize("service", ["lambda", "secretsmanager", "sns"])
def test_the_deployer_may_do_what_the_documents_tell(service: str) -> None:
    policy = json.loads((ROOT / "docs" / "deployer-policy.json").read_text())
    may = [action for statement in policy["Statement"] for action in statement["Action"]]
    documents = [ROOT / "docs" / name for name in ("runbook.md", "operations.md")]
    texts = "\n".join(document.read_text(encoding="utf-8") for document in documents)
    commands = re.findall(rf"\baws\s+{service}\s+(?:\\\s+)?([a-z-]+)", texts)
    actions = [f"{service}:{command.title().replace('-', '')}" for command in commands]
    assert actions
    # of the console: Logs Insights and metrics
    actions += ["logs:StartQuery", "logs:GetQueryResults", "cloudwatch:GetMetricData"]
    actions += ["cloudformation:ContinueUpdateRollback"]
    assert [name for name in actions if not any(fnmatchcase(name, one) for one in may)] == []


NAMED = {
    "cloudwatch:DeleteAlarms": "arn:aws:cloudwatch:us-east-1:1:alarm:{}-quiet-alarm",
    "cloudwatch:PutDashboard": "arn:aws:cloudwatch::1:dashboard/{}-delivery",
    "lambda:UpdateEventSourceMapping": "arn:aws:lambda:us-east-1:1:event-source-mapping:{}",
    "logs:StartQuery": "arn:aws:logs:us-east-1:1:log-group:/aws/lambda/{}-worker",
    "sns:ListSubscriptionsByTopic": "arn:aws:sns:us-east-1:1:{}-dlq-alarm-topic",
}


@pytest.mark.parametrize("name", ["deployer", "oncall"])
def test_retries_are_stopped_alarms_switched_off_and_logs_read_of_stages_alone(name: str) -> None:
    policy = json.loads((ROOT / "docs" / f"{name}-policy.json").read_text())

    def refused(system: str) -> list[str]:
        context = {"lambda:FunctionArn": f"arn:aws:lambda:us-east-1:1:function:{system}-worker"}
        asked = [Request(action, arn.format(system), context) for action, arn in NAMED.items()]
        return [request.action for request in asked if not is_allowed(policy, request)]

    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144  # of a managed policy
    assert refused("triggers-api-prod") == []
    assert refused("shop") == [*NAMED]
