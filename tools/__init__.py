"""The commands of the Makefile. `AWS_REGION` counts for them as for the AWS CLI: boto3 does not
read it.
"""

import os

if os.environ.get("AWS_REGION"):
    os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"]
