#!/bin/sh
# Keeps a worker busy: round after round JOBS uploads, reads, looks and deletes each, under ids of their own, until it is
# stopped. What is read is one object that is stored first, so that no read can overtake its upload. Where broker and
# secrets are is said as for a worker (AMQP_URL_FILE and the like).
#
# Environment: BUCKET (default demo), JOBS a round (default 100), PAUSE in seconds (default 1), ROUNDS (default: no end).
set -eu

bucket=${BUCKET:-demo} jobs=${JOBS:-100} pause=${PAUSE:-1} rounds=${ROUNDS:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 0' INT TERM
run=$(date +%s)
round=0

batch() { # OPERATION FIELDS: N in FIELDS becomes the job's number
  number=0
  while [ "$number" -lt "$jobs" ]; do
    number=$((number + 1))
    printf '{"id": "load-%s-%s-%s-%s", "version": 1, "operation": "%s", "bucket": "%s", %s}\n' \
      "$run" "$round" "$number" "$1" "$1" "$bucket" "$(echo "$2" | sed "s/%N/$number/g")"
  done >"$work/$1.jsonl"
  # A broker that is away is waited for: the same ids go out once more, and take effect once.
  until brigade enqueue batch "$work/$1.jsonl" >/dev/null; do sleep "$pause"; done
}

until brigade enqueue put "s3://$bucket/load/read-me" --text 'read me' --wait >/dev/null; do sleep "$pause"; done
while :; do
  round=$((round + 1))
  batch put_object "\"key\": \"load/$round/%N\", \"body\": {\"text\": \"number %N\"}"
  batch get_object '"key": "load/read-me"'
  batch head_object '"key": "load/read-me"'
  batch delete_object "\"key\": \"load/$((round - 1))/%N\""
  echo "round $round: $((4 * jobs)) jobs"
  [ "$round" != "$rounds" ] || exit 0
  sleep "$pause"
done
