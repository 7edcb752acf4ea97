"""`make deploy`, its first step: the Python of deployed functions changes only when RUNTIME names the new one."""

import os
from datetime import UTC, date, datetime, timedelta

import click
from chalice.config import Config

from chalicelib.errors import AWS_ERRORS
from tools.resources import find_functions

# When Lambda refuses to create functions (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html).
CREATION_ENDS = {
    "python3.11": date(2027, 7, 31),
    "python3.12": date(2028, 11, 30),
    "python3.13": date(2029, 7, 31),
    "python3.14": date(2029, 7, 31),
}
CHANGED = """\
the functions of {stage} run on {deployed}, and .venv has {own}. Type one of these:
  rm -r .venv && make deploy STAGE={stage} PYTHON={deployed}    to keep {deployed}
  make deploy STAGE={stage} RUNTIME={own}    to change them to {own}"""
UNLIKE = ".venv has {own}: rm -r .venv && make deploy STAGE={stage} PYTHON={wanted} RUNTIME={wanted}"
ENDS = "warning: from {ends} on AWS refuses to create functions of {own}. A newer Python: rm -r .venv; make PYTHON=…"


@click.command()
@click.argument("stage")
def main(stage: str) -> None:
    """Tell, or refuse, the runtime that `chalice deploy` takes: that of the Python it runs on."""
    own, wanted = Config().lambda_python_version, os.environ.get("RUNTIME")
    if wanted and wanted != own:
        raise click.ClickException(UNLIKE.format(stage=stage, wanted=wanted, own=own))
    try:
        deployed = sorted(set(find_functions(stage).values()))
    except AWS_ERRORS as error:
        raise click.ClickException(str(error)) from None
    if not deployed:
        print(f"the functions will run on {own}, the Python of .venv")
    elif deployed != [own] and not wanted:
        raise click.ClickException(CHANGED.format(stage=stage, deployed=" and ".join(deployed), own=own))
    ends = CREATION_ENDS.get(own)
    if ends and ends - datetime.now(UTC).date() < timedelta(days=365):
        print(ENDS.format(own=own, ends=ends))


if __name__ == "__main__":
    main()
