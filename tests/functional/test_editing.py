"""What a subscription has beside its URL and types: edits, a filter, headers, a secret, and its
last error.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from chalicelib import deps as services
from chalicelib.infra.times import rfc3339
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.receiver import Exchange, Receiver, status
