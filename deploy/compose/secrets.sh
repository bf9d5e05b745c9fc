#!/bin/sh
# Makes the passwords of docker-compose.yml, once, so that none is the same on two machines and none stands in a file
# that is committed. Needs a POSIX shell and busybox's programs; no network.
#
#   secrets.sh DIR      make in DIR what is missing there; run it again and nothing changes
#
# What is in DIR, all of it for this script alone:
#
#   amqp.url                       worker, producer, tools: AMQP_URL_FILE
#   ledger-{sqlite,postgres}.url   worker: DATABASE_URL_FILE
#   s3.credentials                 worker: AWS_SHARED_CREDENTIALS_FILE
#   s3.env                         the S3 server: its only key pair
#   admin.token                    worker: BRIGADE_HTTP__ADMIN_TOKEN_FILE
#   postgres.password              PostgreSQL
#   grafana.password               Grafana, user admin
#   rabbitmq/*.json                RabbitMQ, as definitions; rabbitmq.password is that of its user admin
#   for/SERVICE/                   copies of what that service reads; a volume of its own is mounted there, and in the
#                                  service, which sees no other's
#
# TOPOLOGY names the definitions of exchanges and queues (default: /deploy/rabbitmq/topology.json).
set -eu
umask 022

dir=${1:?usage: secrets.sh DIR}
topology=${TOPOLOGY:-/deploy/rabbitmq/topology.json}
mkdir -p "$dir/rabbitmq"

put() { # FILE: standard input becomes its content, whole or not at all
  cat >"$dir/$1.new"
  mv "$dir/$1.new" "$dir/$1"
}

give() { # SERVICE FILE…: copies for that service
  service=$1
  shift
  for file; do
    mkdir -p "$(dirname "$dir/for/$service/$file")"
    put "for/$service/$file" <"$dir/$file"
  done
}

give_all() {
  give rabbitmq rabbitmq/10-users.json rabbitmq/20-topology.json
  give s3 s3.env
  give worker amqp.url ledger-sqlite.url ledger-postgres.url s3.credentials admin.token
  give producer amqp.url
  give postgres postgres.password
  give grafana grafana.password
}

# Exchanges and queues follow the version of the project; passwords stay.
put rabbitmq/20-topology.json <"$topology"
if [ -e "$dir/complete" ]; then
  give_all
  exit 0
fi

random() { # N: so many random bytes as hexadecimal digits
  od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'
}

bytes() { # HEX: the bytes that the digits mean
  rest=$1
  while [ -n "$rest" ]; do
    tail=${rest#??}
    # shellcheck disable=SC2059
    printf "\\$(printf '%03o' "0x${rest%"$tail"}")"
    rest=$tail
  done
}

# RabbitMQ's own form: base64 of the salt and of SHA-256 over salt and password.
rabbitmq_hash() { # PASSWORD
  salt=$(random 4)
  digest=$({ bytes "$salt" && printf '%s' "$1"; } | sha256sum | cut -d ' ' -f 1)
  bytes "$salt$digest" | base64 | tr -d '\n'
}

amqp=$(random 24) admin=$(random 24) postgres=$(random 24)
key=$(random 10) secret=$(random 24)

put rabbitmq/10-users.json <<JSON
{
  "vhosts": [{"name": "/"}],
  "users": [
    {"name": "brigade", "password_hash": "$(rabbitmq_hash "$amqp")", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "monitoring"},
    {"name": "admin", "password_hash": "$(rabbitmq_hash "$admin")", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "administrator"}
  ],
  "permissions": [
    {"user": "brigade", "vhost": "/", "configure": "^(brigade\\\\.|amq\\\\.gen).*", "write": "^(brigade\\\\.|amq\\\\.).*", "read": "^(brigade\\\\.|amq\\\\.).*"},
    {"user": "admin", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
  ]
}
JSON
printf '%s\n' "$admin" | put rabbitmq.password
printf 'amqp://brigade:%s@rabbitmq:5672/%%2f\n' "$amqp" | put amqp.url
printf 'sqlite:///var/lib/brigade/ledger.db\n' | put ledger-sqlite.url
printf 'postgres://brigade:%s@postgres:5432/brigade\n' "$postgres" | put ledger-postgres.url
printf '%s\n' "$postgres" | put postgres.password
random 24 | put grafana.password
random 24 | put admin.token
put s3.credentials <<INI
[default]
aws_access_key_id = $key
aws_secret_access_key = $secret
INI
printf 'export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s\n' "$key" "$secret" | put s3.env
: | put complete
give_all
