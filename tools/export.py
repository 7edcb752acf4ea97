"""`make export-subscriptions STAGE=prod`: print the subscriptions of a stage with everything that
another stage or system needs to take them over.
"""

import os
import stat
from collections.abc import Iterator

import boto3
import click

from chalicelib import settings as stage_settings
from chalicelib.deps import Services
from chalicelib.infra.clients import read_secret
from chalicelib.infra.errors import SettingsError, StorageUnavailableError
from chalicelib.settings import Variables
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions


def export_subscriptions(variables: Variables) -> None:
    """Print each subscription as a line of JSON, with its target URL, headers and secrets. If
    standard output is a file, other users lose the permission to read it.

    Raise ClickException if the settings are unusable, or if AWS refuses a call.

    :param variables: The environment variables of the stage's functions. With AWS_ENDPOINT_URL,
        which `make run` prints, the variables of this process replace them.
    """
    stdout = 1  # its file descriptor
    if stat.S_ISREG(os.fstat(stdout).st_mode):
        os.fchmod(stdout, 0o600)
    if "AWS_ENDPOINT_URL" in os.environ:
        variables = {**variables, **os.environ}
    try:
        services = Services(stage_settings.load(variables, read_secret), make_client=boto3.client)
        for subscription in read_all(services.subscriptions):
            # The members that the API does not show.
            members = {
                "target_url": subscription.target_url,
                "headers": subscription.headers,
                "secret": subscription.secret,
                # Until a day after a renewal, the previous secret signs pushes, too.
                "signs_with": subscription.secrets(services.clock()),
            }
            print(subscription.to_json(members))
    except (SettingsError, StorageUnavailableError) as error:
        # The error of AWS, which is the context of this one, names the action that was denied.
        raise click.ClickException(str(error.__context__ or error)) from None


def read_all(subscriptions: Subscriptions) -> Iterator[Subscription]:
    """Yield all subscriptions of a stage, the oldest first."""
    cursor: str | None = ""  # the beginning of the list
    while cursor is not None:
        page = subscriptions.page(tenant="*", cursor=cursor)
        yield from page.subscriptions
        cursor = page.next_cursor
