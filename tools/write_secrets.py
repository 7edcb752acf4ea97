"""`make deploy`, its last step, and `make write-secrets STAGE=prod` for a stack of `make package`:
store the secrets of subscriptions that derive from the operator's signing secret.

Up to 0.7 secrets derived, unless they were given: without this, customers would lose theirs when
the signing secret changes. They are stored as 0.7 stores given ones, which it goes on to use.
"""

from functools import partial

from chalicelib.customers.subscription import Subscription, new_secret, show_secret
from chalicelib.deps import Services
from chalicelib.infra.parsing import Json
from tools.export import read_all

SEVERAL = """\
secrets of subscriptions derive from WEBHOOK_SIGNING_SECRETS, which has more than one: nothing is
stored, because a receiver may have either. Set one alone, the old one unless receivers were given
secrets of the new one, and then: make write-secrets STAGE={stage}"""


def with_secrets(services: Services, subscription: Subscription) -> Json:
    """Return `given` of a subscription with its present secret, which is random where nothing
    signs, and the one before while that signs, too.
    """
    signing_secrets = services.settings.signing_secrets[:1]
    signing = subscription.secrets(signing_secrets, services.clock())
    secrets = [*map(show_secret, signing)]
    if subscription.secret(signing_secrets) is None:
        secrets.insert(0, new_secret())
    number = subscription.renewals or 0
    stored = {f"{number - age}": secret for age, secret in enumerate(secrets)}
    return {"given": subscription.given | stored}


def write_secrets(stage: str, services: Services) -> None:
    """Store what derives; print how many. Each write is for the description as it was read, so that
    this can be stopped, repeated, and done by two.
    """
    found = read_all(services.subscriptions)
    deriving = [known for known in found if with_secrets(services, known)["given"] != known.given]
    if deriving and len(services.settings.signing_secrets) > 1:
        print(SEVERAL.format(stage=stage))
        return
    for subscription in deriving:
        services.subscriptions.edit(subscription, renewal=partial(with_secrets, services))
    print(f"secrets of subscriptions stored: {len(deriving):,}")
