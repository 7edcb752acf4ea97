"""moto's server in this process: it takes what a deployment sends, as AWS does, and can be watched and stopped at."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from unittest.mock import patch

from moto.apigateway.exceptions import StageStillActive
from moto.apigateway.models import RestAPI
from moto.cloudformation.models import ChangeSet
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.table import Table
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

MAKE_TABLE = Table.create_from_cloudformation_json


class MotoServer:
    """`seen` is told of every request before it is answered: its method or operation, and its path."""

    def __init__(self) -> None:
        self.seen: Callable[[str, str], None] = lambda operation, path: None
        self.imports = False  # whether the stack that is being made takes over what is there
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if environ["PATH_INFO"].startswith("/restapis") and b'"swagger"' in body:
            body = _as_openapi_3(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        if b"Action=CreateStack" in body or b"Action=CreateChangeSet" in body:
            self.imports = b"ImportExistingResources=true" in body
        if environ["PATH_INFO"].endswith("/recursion-config"):
            self.seen("PutFunctionRecursionConfig", environ["PATH_INFO"])
            start_response("200 OK", [("Content-Type", "application/json")])
            return [body]
        action = body.partition(b"Action=")[2].partition(b"&")[0].decode()
        answer = self._moto(environ, start_response)
        self.seen(action or environ["REQUEST_METHOD"], environ["PATH_INFO"])
        return answer

    def make_table(self, name: str, described: dict[str, Any], account_id: str, region: str, **options: Any) -> Any:
        """Make a stack's table, or take over the one that is there, which moto does not do by itself."""
        there = dynamodb_backends[account_id][region].tables.get(name)
        return there if there and self.imports else MAKE_TABLE(name, described, account_id, region, **options)


def _apply(change_set: ChangeSet) -> None:
    """Make what a change set describes: moto forgets the outputs."""
    stack = change_set.stack
    stack.template_dict = change_set.template_dict
    stack.resource_map.update(stack.template_dict, change_set.parameters)
    stack.output_map = stack._create_output_map()


def _delete_deployment(api: RestAPI, deployment_id: str) -> Any:
    """Delete what no stage uses any more: moto refuses what a stage has ever used."""
    if deployment_id in [stage.deployment_id for stage in api.get_stages()]:
        raise StageStillActive
    return api.deployments.pop(deployment_id)


def _as_openapi_3(body: bytes) -> bytes:
    """Return Chalice's description of the API as moto reads one: AWS takes Swagger 2.0, and asks for no description."""
    document = json.loads(body)
    del document["swagger"]
    document["openapi"] = "3.0.1"
    document["info"]["description"] = ""
    return json.dumps(document).encode()


@contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Serve until the end of the block. moto's memory is the process's own: it is empty at the start."""
    for noisy in ("moto", "werkzeug"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moto = MotoServer()
        thread = Thread(target=moto.server.serve_forever, daemon=True)
        thread.start()
        try:
            with (
                patch.object(Table, "create_from_cloudformation_json", moto.make_table),
                patch.object(ChangeSet, "apply", _apply),
                patch.object(RestAPI, "delete_deployment", _delete_deployment),
            ):
                yield moto
        finally:
            moto.server.shutdown()
            thread.join()
            moto.server.server_close()
