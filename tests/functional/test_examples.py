"""The examples: moving in from other systems."""

import json
import re
import sys

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import ended
from tests.support.world import ROOT, assert_has

EXAMPLES = ROOT / "examples"
SECRET = f"whsec_{'a' * 32}"


def test_the_endpoints_of_svix_are_printed_as_lines() -> None:
    endpoint = {
        "id": "1",
        "url": "u",
        "filterTypes": ["a"],
        "description": "CRM",
        "channels": ["c"],
    }
    pages = {
        "/app": {"data": [{"id": "app_1", "uid": "acme"}], "done": True},
        "endpoint": {"data": [endpoint], "done": False, "iterator": "1"},
        "endpoint&iterator=1": {"data": [{"id": "2", "disabled": True}], "done": True},
        "/headers": {"headers": {"X-Api-Key": "k"}, "sensitive": ["authorization"]},
        "/secret": {"key": SECRET},
    }

    def answer(exchange: Exchange) -> None:
        asked = exchange.request.path.replace("?limit=250", "")
        [page] = [page for page in pages if asked.endswith(page)]
        status(200, body=json.dumps(pages[page]).encode())(exchange)

    with Receiver() as svix:
        svix.default = answer
        variables = {"SVIX_URL": f"http://127.0.0.1:{svix.port}", "SVIX_TOKEN": "t"}
        _, output, errors = ended(sys.executable, str(EXAMPLES / "svix_lines.py"), **variables)

    line = json.loads(output)
    assert re.findall(r"endpoint/(\d): (\w+)", errors) == [("1", "gets"), ("2", "skipped")]
    assert_has(line, target_url="u", event_types=["a"], tenant="acme", secret=SECRET)
    assert_has(line, name="CRM", headers={"X-Api-Key": "k"}, body="payload")
