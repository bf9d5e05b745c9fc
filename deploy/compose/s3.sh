#!/bin/sh
# Starts SeaweedFS with one bucket. Its S3 API wants keys, and listens on every address. Master, volume server and filer
# take calls without keys, so they listen on loopback: no other container reaches them. What is left is the gRPC port of
# the S3 API (18333), by which a filer hands it keys: the network `storage` of docker-compose.yml has no other member
# than the worker, which holds the keys anyway.
#
#   s3.sh BUCKET        SECRETS has s3.env (default /run/brigade), DATA is the data's folder (default /data)
set -eu

bucket=${1:?usage: s3.sh BUCKET}
# shellcheck source=/dev/null
. "${SECRETS:-/run/brigade}/s3.env"

# The bucket is made as soon as the filer answers. As long as the filer is not there, asking it costs next to nothing.
has() { wget -q -O /dev/null "http://127.0.0.1:8888/$1"; }
{
  until has ''; do sleep 1; done
  until has "buckets/$bucket/"; do
    echo "s3.bucket.create -name $bucket" | timeout 30 weed shell -master=127.0.0.1:9333 >/dev/null 2>&1 || true
    sleep 1
  done
} &

exec weed server -dir="${DATA:-/data}" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
  -master.volumeSizeLimitMB=1024 -master.telemetry=false -volume.max=0 -filer \
  -s3 -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0
