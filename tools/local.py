"""Run the system on one machine: AWS, receiver, API, workers and schedules.

Environment variables are checked first. Resources and settings that the variables do not name are
created.
"""

import contextlib
import logging
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from threading import Lock, Thread
from typing import TextIO
from urllib.parse import urlsplit

from chalice.config import Config
from chalice.local import LocalGateway, LocalGatewayException, create_local_server
from werkzeug import Request, Response
from werkzeug.serving import BaseWSGIServer, make_server

from chalicelib import __version__, settings
from chalicelib import deps as services
from chalicelib.core.store import SWEEP_PERIOD_SECONDS
from chalicelib.infra import telemetry
from chalicelib.infra.errors import (
    AWS_ERRORS,
    QueueUnavailableError,
    SettingsError,
)
from chalicelib.infra.queue import Message, Queue
from chalicelib.operations import batch, schedules
from chalicelib.settings import Scope
from chalicelib.subscriptions.catch_up import catch_up
from tools import api_key, gateway, local_aws
from tools.api import printable
from tools.configuration import STAND_INS, load_config
from tools.receiver import HOST, Receiver
from tools.stage import ROOT

SETTINGS = settings.BY_VARIABLE
# The variables that another shell needs to use the same AWS and the same settings.
VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    *local_aws.CREDENTIALS,
    "SETTINGS_SECRET",
    *SETTINGS,
)
# Variables that name resources of a deployed stage on AWS.
OF_DEPLOYED_STAGE = ("SETTINGS_SECRET", "EVENTS_TABLE_NAME", *local_aws.SETTINGS.values())
# Variables whose values are never printed.
SECRETS = {*local_aws.CREDENTIALS, *(name for name, row in SETTINGS.items() if not row.repr)}


# The fields of a log record that the screen shows.
SHOWN_FIELDS = ("outcome", "attempt", "status_code", "error", "reason", "retry_in_seconds")


class Screen(logging.Handler):
    """Writes the program's messages, and a short line for each log record that is a warning or is
    about an event, for a person to read.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def say(self, text: str) -> None:
        """Write a text and a line break. Errors are ignored."""
        with contextlib.suppress(OSError):  # nobody reads the stream any more
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def event(self, event_id: str, text: str) -> None:
        """Write a line about an event, with the time of day."""
        at = time.strftime("%H:%M:%S")
        self.say(printable(f"{at}  {event_id:<36}  {text}"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line about a log record if it is a warning or an error, or has an `event_id`;
        ignore any other record.
        """
        fields = vars(record)
        words = [record.getMessage()]
        words += [f"{name}={fields[name]}" for name in SHOWN_FIELDS if fields.get(name) is not None]
        if "event_id" in fields or record.levelno >= logging.WARNING:
            self.event(str(fields.get("event_id", "")), "  ".join(words))


def _respond(api: LocalGateway, request: Request) -> Response:
    """Return the app's response to a request or, if there is no route for its path and method, or a
    header is not ASCII, the 404 response of API Gateway.

    :param api: Chalice's stand-in for API Gateway and Lambda, which calls the app.
    """
    path_and_query = request.environ["RAW_URI"]
    body = request.get_data() or None  # None: the request has no body
    try:
        made = api.handle_request(request.method, path_and_query, dict(request.headers), body)
        has_route = made["statusCode"] != HTTPStatus.METHOD_NOT_ALLOWED
    # A LocalGatewayException is not logged or returned: its text has the Authorization header.
    # A header that is not ASCII raises UnicodeError.
    except (LocalGatewayException, UnicodeError):
        has_route = False
    if not has_route:
        document = gateway.NOT_FOUND["responseTemplates"]["application/json"]
        return Response(document, HTTPStatus.NOT_FOUND, content_type="application/problem+json")
    return Response(made["body"], made["statusCode"], made["headers"])


def given(name: str) -> str:
    """Return the value of an environment variable without spaces around it; empty if it is not
    set.
    """
    return os.environ.get(name, "").strip()


def start() -> None:
    """Start the system in daemon threads, and print how to use it. Raise SettingsError if a setting
    is unusable, and ClickException if .chalice/config.json cannot be read.

    Settings that the user has not set in the environment get values for this machine, unless the
    user has set SETTINGS_SECRET, which names a secret with all of them.
    """
    set_by_user = [name for name in VARIABLES if given(name)]
    config = _read_config()
    _check_environment()
    server = _listen(config)
    url = f"http://{HOST}:{server.port}"
    screen = _open_screen()
    key = ""  # the API key, if one is created below
    _provide_aws()
    receiver = Receiver(screen.event)
    if not given("SETTINGS_SECRET"):
        if "API_KEYS" not in os.environ:
            key = api_key.new_key()
            os.environ["API_KEYS"] = api_key.entry("local", key, "+".join(Scope))
        _provide("WEBHOOK_SIGNING_SECRETS", api_key.new_signing_secret())
        _provide("ZAPIER_WEBHOOK_URL", receiver.hook_url)
        hosts = (*settings.DEFAULT_HOSTS.entries, "127.0.0.1", "localhost")
        _provide("SUBSCRIPTION_HOSTS", ",".join(hosts))
    services.get()  # creates the clients, and raises if a setting is unusable
    screen.say(_usage(url, key, receiver, set_by_user))
    _start_workers()
    _schedule("sweep", SWEEP_PERIOD_SECONDS, lambda: schedules.sweep(services.get()))
    _schedule(
        "catch_up",
        SWEEP_PERIOD_SECONDS,
        lambda: catch_up(services.get(), services.get().subscriptions),
    )
    _schedule(
        "check_dlq", schedules.CHECK_DLQ_SECONDS, lambda: schedules.publish_depths(services.get())
    )
    Thread(target=server.serve_forever, name="api", daemon=True).start()
    screen.say(f"ready  {url}  (Ctrl-C ends it)")


def _read_config() -> Config:
    """Return Chalice's configuration of the stage, and set its environment variables unless they
    are set already. The names of resources on AWS, such as the name of a restored table, are not
    set.
    """
    stage = given("STAGE") or "dev"
    config = Config(stage, config_from_disk=load_config(stage))
    for name, value in config.environment_variables.items():
        if name not in OF_DEPLOYED_STAGE:
            _provide(name, str(value))
    return config


def _check_environment() -> None:
    """Raise SettingsError with every setting in the environment that is unusable."""
    is_set = {name: value for name, value in os.environ.items() if value.strip()}
    services.load_checked(STAND_INS | is_set)


def _listen(config: Config) -> BaseWSGIServer:
    """Return the server of the API. It listens already, and responds once it is started. Raise
    SettingsError if PORT cannot be used.
    """
    from app import app  # imported here, because it reads the variables that are set by now

    api_config = config.scope(config.chalice_stage, "api_handler")
    port = given("PORT") or "8000"
    try:
        # Chalice's server is created, because this makes the app thread-safe and opens the port.
        chalice_server = create_local_server(app, api_config, HOST, int(port)).server
    except (OSError, OverflowError, ValueError) as error:
        raise SettingsError(f"PORT {port}: {error}; make run PORT=0 chooses a free port") from error
    # The returned server uses the same port in its place, because Chalice's server cannot read
    # chunked bodies.
    respond = Request.application(partial(_respond, LocalGateway(app, api_config)))
    return make_server(HOST, 0, respond, threaded=True, fd=chalice_server.fileno())


def _open_screen() -> Screen:
    """Return the screen, which writes to standard output. If standard output is a terminal, the
    JSON lines of the log are written to a file instead. The file is outside of this folder, because
    `chalice local` restarts at changes in this folder.
    """
    screen = Screen(sys.stdout)
    telemetry.logger.addHandler(screen)
    if sys.stdout.isatty():
        log = Path(tempfile.mkstemp(".log", "triggers-api-")[1])
        sys.stdout = log.open("w", encoding="utf-8")
    return screen


def _provide_aws() -> None:
    """Start an emulated AWS unless AWS_ENDPOINT_URL names one. Unless SETTINGS_SECRET is set, also
    create the missing table and queues, and set the variables that name them if they are not set.
    Raise SettingsError if AWS cannot be used.
    """
    endpoint = given("AWS_ENDPOINT_URL")
    try:
        if endpoint:
            local_aws.complete_given()
        else:
            local_aws.use(local_aws.start_moto())
        if not given("SETTINGS_SECRET"):
            for name, value in local_aws.ensure(os.environ["STAGE"]).items():
                _provide(name, value)
    except (*AWS_ERRORS, ValueError) as error:
        text = " ".join(str(error).split())
        raise SettingsError(f"AWS_ENDPOINT_URL {endpoint or '(embedded)'}: {text}") from error


def _provide(name: str, value: str) -> None:
    """Set an environment variable unless it has a value already."""
    os.environ[name] = given(name) or value


def _start_workers() -> None:
    """Start the workers of the fast lane and the slow lane. Both wait for messages by repeated
    calls of SQS, whose log records are left out of the log, except for warnings.
    """

    def is_logged(record: logging.LogRecord) -> bool:
        """Return False for the record of a call for messages that succeeded, or else True."""
        return record.levelno > logging.INFO or record.getMessage() != "sqs receive_message"

    telemetry.logger.addFilter(is_logged)
    started = services.get()
    _start_worker("worker", started.work_queue, started.settings.worker_max_concurrency)
    _start_worker("slow_worker", started.slow_queue, started.settings.slow_max_concurrency)


POLL_SECONDS = 0.2
WORKER_TIMEOUT_SECONDS = 50.0  # as in .chalice/config.json


def _start_worker(name: str, queue: Queue, threads: int) -> None:
    """Start the threads of a worker, which receive and process batches of messages. Only one thread
    receives at a time, and there is no batch window.

    :param name: `worker` for the fast lane or `slow_worker` for the slow lane.
    :param queue: The queue of the lane.
    :param threads: The number of batches that are processed at the same time.
    """
    receiving = Lock()

    def process_batch() -> None:
        """Receive up to ten messages, process them, and delete them; do nothing if there is none.
        Raise BatchError if a message is to be received again.
        """
        messages: list[Message] = []
        with receiving, contextlib.suppress(QueueUnavailableError):  # Queue logs the error
            # Not a long poll: emulators give messages to clients that have left.
            time.sleep(POLL_SECONDS)
            messages = queue.receive(wait_seconds=0)
        if messages:
            batch.process(
                messages,
                services.get(),
                WORKER_TIMEOUT_SECONDS,
                is_fast_lane=name == "worker",
            )
            # All of them succeeded: otherwise `process` has raised BatchError.
            queue.delete_many([message.receipt_handle for message in messages])

    for _ in range(threads):
        _schedule(name, seconds=0, function=process_batch)


def _schedule(name: str, seconds: float, function: Callable[[], None]) -> None:
    """Call a function again and again, in a thread of its own. Its errors are logged.

    The first call is made at once, so that work that a crash left behind does not wait.

    :param name: The name of the thread and of the function in the log.
    :param seconds: The pause after each call; 0: none.
    """

    def run() -> None:
        """Call the function for ever. Each call has a request id of its own in the log."""
        while True:
            with telemetry.request_id(str(uuid.uuid4())):
                try:
                    function()
                except Exception:
                    telemetry.logger.exception("%s failed", name)
            time.sleep(seconds)

    Thread(target=run, name=name, daemon=True).start()


# The files with the commands that are printed for pasting. The second file is for a system whose
# ZAPIER_WEBHOOK_URL is `subscriptions`.
TOUR = ROOT / "tools" / "paste.sh"
TOUR_OF_SUBSCRIPTIONS = ROOT / "tools" / "paste_subscriptions.sh"


def _usage(url: str, key: str, receiver: Receiver, set_by_user: list[str]) -> str:
    """Return the commands that a user can paste into another terminal, and a summary of the system.

    :param url: The URL of the API.
    :param key: The API key that was created; empty: the user has set API_KEYS.
    :param receiver: The local receiver of pushes, to which the commands refer.
    :param set_by_user: The names of the variables that the user has set. The values of secret ones
        are not printed.
    """
    current = services.get().settings
    # The webhook URL is secret, but not if it is the word `subscriptions`, which is no URL.
    hidden = [
        name for name in set_by_user if name in SECRETS and given(name) != settings.COPIES_ONLY
    ]
    variables = {name: given(name) for name in VARIABLES if given(name) and name not in hidden}
    exported = "export"
    for name, value in variables.items():
        exported += f" {name}={shlex.quote(value)}"
    if hidden:
        # `:` is a command of the shell that does nothing, so the line can be pasted, too.
        exported += f'\n: "and, as they are set for make run: {" ".join(hidden)}"'
    pushes_copies_only = current.webhook == settings.COPIES_ONLY
    # Whether anything is pushed to the local receiver. Otherwise the commands about it are left
    # out: the blocks of the file, separated by blank lines, that have the word RECEIVER.
    is_received = pushes_copies_only or current.webhook == receiver.hook_url
    commands_file = TOUR_OF_SUBSCRIPTIONS if pushes_copies_only else TOUR
    blocks = commands_file.read_text().strip().split("\n\n")
    blocks = [block for block in blocks if is_received or "RECEIVER" not in block]
    tour = "\n\n".join(blocks).replace("VARIABLES", exported)
    tour = tour.replace("RECEIVER/HOOK", receiver.hook_url).replace("RECEIVER", receiver.url)
    own_key = f" TRIGGERS_API_KEY={key}" if key else ""
    page = f"{url}/#key={key}" if key else f"{url}/"
    # In place of a secret that the user has set, the summary has the word `yours`.
    return f"""export TRIGGERS_URL={url}{own_key}

{tour}
)

console      {page}
  version    {__version__}, stage {os.environ["STAGE"]}
  key        {key or "yours; put it into TRIGGERS_API_KEY for the commands above"}
  signing    {variables.get("WEBHOOK_SIGNING_SECRETS", "yours")}
  pushes to  {urlsplit(current.webhook).netloc or current.webhook}
  logs       {sys.stdout.name}"""
