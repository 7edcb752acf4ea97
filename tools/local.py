"""Puts the system together on one machine: AWS, receiver, API, worker, schedules, in the order they need each other.

Whatever is set in the environment is used, and what is missing is made. Settings at fault are found before anything is.
"""

import http.client
import importlib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from threading import Thread
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from chalice.app import Chalice, ScheduledEventConfig, SQSEventConfig
from chalice.config import Config
from chalice.local import LocalDevServer

from chalicelib import __version__, log
from chalicelib.settings import Settings
from tools import api_key, aws, resources
from tools.invoke import WAIT_SECONDS, EventSource, Function, rate_seconds, start_schedule
from tools.receiver import Receiver
from tools.screen import FOLD, FirstDeadLetter, Screen, ScreenHandler, what_is_where, what_next, what_to_try
from tools.server import create_server
from tools.stage import CONFIG, ROOT, TABLE_AND_QUEUES, WEBHOOK_AND_KEYS, check, given

LOGS = ROOT / ".local"
GRACE_SECONDS = 2
TIMEOUT_SECONDS = {"api_handler": 30, "worker": 50, "sweep": 60, "check_dlq": 60}


class StartError(Exception):
    """It cannot start: `str()` is one line for a person."""


@dataclass(frozen=True)
class System:
    """What runs, and can be stopped."""

    screen: Screen
    server: LocalDevServer
    event_source: EventSource

    def stop(self) -> None:
        """Take nothing new, and give what is under way a moment; a moment is not always enough."""
        self.screen.say("\nstopping")
        self.server.shutdown()
        self.event_source.stop(GRACE_SECONDS)


def start() -> System:
    """Start everything, and say how to use it once it answers; raise StartError."""
    port, checked = _check(os.environ)
    config = Config(checked.stage, config_from_disk=json.loads(CONFIG.read_text()))
    app: Chalice = importlib.import_module("app").app
    server = _listen(app, config, port)
    port = server.server.server_port
    url = f"http://127.0.0.1:{port}"
    screen, log_place, fold = _open_screen(checked.log_level, port)
    aws_place = _provide_aws(checked.stage)
    receiver = _provide_receiver(screen)
    key = _provide_key()
    event_source = _start_functions(app, config)
    Thread(target=server.server.serve_forever, name="api", daemon=True).start()
    _await_health(port)
    receiver_url = receiver.url if receiver else None
    pushes_to = f"{receiver_url}  (built in, shows what it gets)" if receiver_url else _webhook_place()
    python, queues = os.path.relpath(sys.executable), _aws_variables(checked.stage)
    look = partial(what_next, url=url, key=key, python=python, aws=queues, fold=fold)
    logging.getLogger("triggers_api").addHandler(FirstDeadLetter(screen, look))
    screen.say(f"triggers-api {__version__}, stage {checked.stage}\n")
    screen.say(what_is_where(url, _key_place(key), pushes_to, aws_place, log_place))
    screen.say(what_to_try(url, key, receiver_url, fold))
    screen.say(f"ready  {url}  (Ctrl-C ends it)")
    return System(screen, server, event_source)


def _check(environ: Mapping[str, str]) -> tuple[int, Settings]:
    """Return the port and the settings as far as they are given; raise StartError naming every variable at fault."""
    variables = given(environ)
    checked, faults = check(environ, {**TABLE_AND_QUEUES, **WEBHOOK_AND_KEYS})
    port = variables.get("PORT", "8000").strip()
    if not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535):
        faults.append("PORT is unusable: it must be 0 to 65535")
    if not re.match(r"https?://[^/]", variables.get("AWS_ENDPOINT_URL", "http://-").strip()):
        faults.append("AWS_ENDPOINT_URL is unusable: it must be an http or https URL")
    if faults or checked is None:
        raise StartError("; ".join(faults))
    return int(port), checked


def _open_screen(log_level: str, port: int) -> tuple[Screen, str, str]:
    """Return the screen, where JSON lines go, and what stands between the parts of a command.

    JSON goes to a file while a person watches, one for each port, for there may be two runs; else to the same output.
    """
    log.configure(log_level)
    terminal = sys.stdout
    if isinstance(terminal, io.TextIOWrapper):
        terminal.reconfigure(errors="replace")
    if not terminal.isatty():
        return Screen(terminal, color=False), "standard output, in lines that begin with {", " "
    log_file = LOGS / f"run-{port}.log"
    try:
        LOGS.mkdir(exist_ok=True)
        sys.stdout = log_file.open("w", encoding="utf-8")
    except OSError as error:
        raise StartError(f"{os.path.relpath(log_file)}: {error.strerror}") from error
    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    screen = Screen(terminal, color=color)
    logging.getLogger("triggers_api").addHandler(ScreenHandler(screen))
    return screen, os.path.relpath(log_file), FOLD


def _listen(app: Chalice, config: Config, port: int) -> LocalDevServer:
    local_config = Config.create(lambda_timeout=_timeout_seconds(config, "api_handler"))
    try:
        return create_server(app, local_config, port)
    except OSError as error:
        raise StartError(f"port {port}: {error.strerror}; make run PORT=0 takes one that is free") from error


def _provide_aws(stage: str) -> str:
    """See that table and queues are there and that the environment names them; return where they are."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "").strip()
    place = endpoint or "inside this process"
    variables = resources.VARIABLES.values()
    named = {name: value for name, value in given(os.environ).items() if name in variables}
    try:
        if endpoint:
            aws.use_given()
        else:
            aws.embed()
        if not endpoint or len(named) < len(variables):
            os.environ |= {**resources.ensure(stage), **named}
        resources.check(named)
    except (BotoCoreError, ClientError, ResponseParserError, ValueError, KeyError, resources.ResourcesError) as error:
        raise StartError(f"AWS {place}: {' '.join(str(error).split())}") from error
    return endpoint or f"{os.environ['AWS_ENDPOINT_URL']}  (inside this process, empty at each start)"


def _provide_receiver(screen: Screen) -> Receiver | None:
    if os.environ.get("ZAPIER_WEBHOOK_URL", "").strip():
        return None
    receiver = Receiver(screen)
    receiver.start()
    os.environ["ZAPIER_WEBHOOK_URL"] = receiver.url + receiver.hook_path
    return receiver


def _provide_key() -> str | None:
    if "API_KEYS" in os.environ:
        return None
    key = api_key.new_key()
    os.environ["API_KEYS"] = api_key.entry("local", key)
    return key


def _key_place(key: str | None) -> str:
    if key:
        return f"{key}  (for this run)"
    if not os.environ["API_KEYS"].strip():
        return "none: API_KEYS is empty, so every call is refused"
    return "as in API_KEYS; put one into TRIGGERS_API_KEY to paste what follows"


def _webhook_place() -> str:
    """Return as much of the webhook URL as may be shown: its path is a secret."""
    url = urlsplit(os.environ["ZAPIER_WEBHOOK_URL"].strip())
    return f"{url.scheme}://{url.netloc}/…  (ZAPIER_WEBHOOK_URL)"


def _aws_variables(stage: str) -> dict[str, str]:
    """Return what another process needs to find the queues. A person's own credentials it has to find itself."""
    names = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
    place = {name: os.environ[name] for name in names if name in os.environ}
    made = {name: value for name, value in aws.DUMMY.items() if os.environ.get(name) == value}
    return {"STAGE": stage, **place, **made}


def _start_functions(app: Chalice, config: Config) -> EventSource:
    """Start what Lambda would call: the schedules, and the worker on its queue, with the numbers that app.py gives."""

    def function(name: str) -> Function:
        return Function(name, app.handler_map[name], _timeout_seconds(config, name))

    worker = next(source for source in app.event_sources if isinstance(source, SQSEventConfig))
    event_source = EventSource(
        aws.client("sqs", read_timeout_seconds=WAIT_SECONDS + 4),
        os.environ["INBOX_QUEUE_URL"],
        function(worker.name),
        batch_size=worker.batch_size,
        concurrency=worker.maximum_concurrency or 1,
    )
    event_source.start()
    for source in app.event_sources:
        if isinstance(source, ScheduledEventConfig):
            start_schedule(function(source.name), rate_seconds(source.schedule_expression))
    return event_source


def _timeout_seconds(config: Config, name: str) -> int:
    return config.scope(config.chalice_stage, name).lambda_timeout or TIMEOUT_SECONDS[name]


def _await_health(port: int) -> None:
    """Return when the API answers; raise StartError when it does not, or not well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except OSError as error:
        raise StartError(f"the API does not answer: {error}") from error
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise StartError(f"the API is not well: GET /health answers {status}")
