"""`make deploy`, its first step: the Python of deployed functions changes only when RUNTIME names the new one."""

import os
from datetime import UTC, datetime, timedelta

import click
from chalice.config import Config

from chalicelib.infra.errors import AWS_ERRORS
from tools.resources import find_functions

# When Lambda refuses to create functions (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html).
CREATION_ENDS = {"python3.11": "2027-07-31", "python3.12": "2028-11-30", "python3.13": "2029-07-31"}
UNLIKE = """\
the functions of {stage} have, or RUNTIME names, {wanted}, and .venv has {own}. Type one of these:
  rm -r .venv && make deploy STAGE={stage} PYTHON={newest} RUNTIME={newest}
  make deploy STAGE={stage} RUNTIME={own}"""


@click.command()
@click.argument("stage")
def main(stage: str) -> None:
    """Refuse to change the runtime of deployed functions: `chalice deploy` takes the Python that it runs on."""
    own, named = Config().lambda_python_version, os.environ.get("RUNTIME")
    try:
        deployed = sorted(set(find_functions(stage).values()))
    except AWS_ERRORS as error:
        raise click.ClickException(str(error)) from None
    wanted = [named] if named else deployed or [own]
    if wanted != [own]:
        raise click.ClickException(UNLIKE.format(stage=stage, wanted=" and ".join(wanted), own=own, newest=wanted[-1]))
    in_a_year = (datetime.now(UTC) + timedelta(days=365)).date().isoformat()
    if (ends := CREATION_ENDS.get(own, in_a_year)) < in_a_year:
        print(f"warning: from {ends} on AWS refuses to create functions of {own}; rm -r .venv && make PYTHON=… deploy")


if __name__ == "__main__":
    main()
