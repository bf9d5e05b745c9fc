"""Uploads a file with boto3's upload_fileobj and prints seconds, seconds of CPU and MiB at most.

Usage: boto3_peer.py FILE ENDPOINT, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment.
"""

import os
import resource
import sys
import time

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

path, endpoint = sys.argv[1:]
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "brigade-dev"),
    aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "brigade-dev-secret"),
    # The same for all three: a store of one's own gets no checksums that it does not ask for.
    config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
)


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


began, before = time.monotonic(), cpu()
with open(path, "rb") as file:
    parts = TransferConfig(multipart_chunksize=8 << 20, max_concurrency=8)
    client.upload_fileobj(file, "bench", "boto3", Config=parts)
seconds, used = time.monotonic() - began, cpu() - before
print(seconds, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
