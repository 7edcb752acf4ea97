"""Provide the services of this container: created at first use, with settings that are read again
every few minutes.
"""

import contextlib
import math
import os
from dataclasses import replace
from functools import cached_property, partial
from threading import Lock

from chalicelib import settings as environment
from chalicelib.core.invocation import CoreServices
from chalicelib.core.outcome import longest_retry_seconds
from chalicelib.infra import telemetry
from chalicelib.infra.clients import ONE_SHORT_TRY, read_secret
from chalicelib.infra.errors import AWS_ERRORS, SettingsError
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.settings import SecretReader, Settings, Variables
from chalicelib.subscriptions.subscriptions import Subscriptions
from chalicelib.subscriptions.targets import AllTargets

REFRESH_SECONDS = 300
READ_SECRET_ONCE = partial(read_secret, config=ONE_SHORT_TRY)


class Services(CoreServices):
    """The collaborators of the core, and the subscriptions."""

    @cached_property
    def subscriptions(self) -> Subscriptions:
        return Subscriptions(self)

    @cached_property
    def targets(self) -> AllTargets:
        return AllTargets(self, self.subscriptions)


_services: Services | None = None
_refresh_at = 0.0
_lock = Lock()


def use(services: Services | None) -> None:
    """Make `get` return the given services from now on, for tests and for local runs. Their
    settings are not read again.

    :param services: None: the next `get` creates services from the environment.
    """
    global _services, _refresh_at  # noqa: PLW0603
    _services = services
    _refresh_at = math.inf


def initialize() -> None:
    """Create the services and their AWS clients while Lambda initializes a function, because the
    function has more CPU then than during a request. The container keeps both for its requests.

    The secret is read with one short try, because Lambda limits the initialization to 10 s. Errors
    are ignored: the first request then tries to create what is missing, and reports its own errors.
    """
    with contextlib.suppress(SettingsError, *AWS_ERRORS):
        services = get(READ_SECRET_ONCE)
        for service in ("dynamodb", "sqs"):
            services.make_client(service)


def load_checked(environ: Variables, read_secret: SecretReader = read_secret) -> Settings:
    """Return the settings of environment variables and of the secret.

    Raises SettingsError if a variable is missing or unusable, or if EVENT_RETENTION_DAYS is not at
    least a day longer than the retries of an event can last.
    """
    settings = environment.load(environ, read_secret)
    retry_days = longest_retry_seconds(settings) / DAY_SECONDS
    days = math.ceil(retry_days + 1)
    if days > settings.event_retention_days:
        raise SettingsError(
            f"MAX_DELIVERY_ATTEMPTS and EVENT_RETENTION_DAYS do not fit: retries need {days} days"
        )
    return settings


def get(read_secret: SecretReader = read_secret) -> Services:
    """Return this container's services; raise SettingsError if the environment is unusable.

    The settings are read again every REFRESH_SECONDS. If that fails, the previous settings are
    kept.
    """
    global _services, _refresh_at  # noqa: PLW0603
    with _lock:
        if _services is None:
            telemetry.configure("INFO")
            settings = load_checked(os.environ, read_secret)
            telemetry.configure(settings.log_level, settings.stage)
            _services = Services(settings)
            _refresh_at = _services.clock() + REFRESH_SECONDS
        elif _services.clock() >= _refresh_at:
            _refresh_at = _services.clock() + REFRESH_SECONDS
            _services = _refresh(_services)
        return _services


def _refresh(services: Services) -> Services:
    """Read the settings again; return services that have them, and share the connections and
    breakers of the given services.

    If the settings cannot be read, log a warning and return the given services.
    """
    try:
        settings = load_checked(os.environ, READ_SECRET_ONCE)
    except SettingsError as error:
        telemetry.logger.warning("settings not read again", extra={"error": str(error)})
        return services
    telemetry.configure(settings.log_level, settings.stage)
    return replace(services, settings=settings)
