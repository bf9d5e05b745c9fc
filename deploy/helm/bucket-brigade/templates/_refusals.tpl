{{/*
What can't work is refused here, all of it at once, with what would be right. Types and misspelled values are refused
before, by values.schema.json; each setting's own rules afterwards, by `brigade config check` and at the worker's start.
*/}}
{{- define "brigade.refuse" -}}
{{- $wrong := list -}}
{{- $sets := (include "brigade.sets" . | fromJson).sets -}}
{{- $served := list -}}
{{- $names := list -}}
{{- $counted := list -}}

{{- if not .Values.image.repository -}}
{{- $wrong = append $wrong "image.repository is empty: name the repository that you pushed the worker's image to" -}}
{{- end -}}
{{- if not .Values.amqp.secret.name -}}
{{- $wrong = append $wrong "amqp.secret.name is empty: name the Secret that holds RabbitMQ's URL" -}}
{{- end -}}
{{- if and (eq .Values.ledger.kind "postgres") (not .Values.ledger.secret.name) -}}
{{- $wrong = append $wrong "ledger.secret.name is empty: name the Secret that holds PostgreSQL's URL, or set ledger.kind to sqlite for a single worker" -}}
{{- end -}}

{{- range $sets -}}
{{- $set := . -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "two sets of workers have the name %s: give each its own" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- $served = concat $served .lanes -}}
{{- if eq .scaling.kind "keda" -}}
{{- range .lanes -}}
{{- if has . $counted -}}
{{- $wrong = append $wrong (printf "workers (%s): KEDA scales another set on the lane %s, too, and each would start pods for its whole queue: scale one of them by fixed or hpa" $set.name .) -}}
{{- end -}}
{{- end -}}
{{- $counted = concat $counted .lanes -}}
{{- end -}}
{{- $wrong = concat $wrong ((include "brigade.refuseSet" (dict "root" $ "set" $set) | fromJson).wrong | default list) -}}
{{- end -}}

{{- if not $sets -}}
{{- $wrong = append $wrong "workers is empty: nothing would run" -}}
{{- end -}}
{{- range list "upload" "read" "cleanup" -}}
{{- if and (not (has . $served)) (not (has . $.Values.lanesServedElsewhere)) -}}
{{- $wrong = append $wrong (printf "no set of workers serves the lane %s, so its jobs would wait for ever: add it to the lanes of one, or to lanesServedElsewhere" .) -}}
{{- else if and (has . $served) (has . $.Values.lanesServedElsewhere) -}}
{{- $wrong = append $wrong (printf "lanesServedElsewhere names the lane %s, which a set of workers serves here" .) -}}
{{- end -}}
{{- end -}}

{{- if eq .Values.ledger.kind "sqlite" -}}
{{- if gt (len $sets) 1 -}}
{{- $wrong = append $wrong (printf "ledger.kind sqlite is for one worker, and there are %d sets: use postgres, or one set with all lanes" (len $sets)) -}}
{{- end -}}
{{- if not .Values.ledger.volume.enabled -}}
{{- $wrong = append $wrong "ledger.kind sqlite needs a volume: without one the ledger, and with it the promise that a job takes effect once, goes with the pod. Set ledger.volume.enabled" -}}
{{- end -}}
{{- if eq .Values.ledger.migrations.by "job" -}}
{{- $wrong = append $wrong "ledger.migrations.by job is for postgres: a SQLite file is the worker's alone. Use workers" -}}
{{- end -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n\nThese values can't work:\n\n* %s\n" (join "\n* " $wrong)) -}}
{{- end -}}
{{- end }}

{{/* The same for one set: {"wrong": […]}. */}}
{{- define "brigade.refuseSet" -}}
{{- $wrong := list -}}
{{- $set := .set -}}
{{- $values := .root.Values -}}
{{- $where := printf "workers (%s)" $set.name -}}
{{- $settings := (include "brigade.refuseSettings" (dict "at" "settings" "settings" $set.settings "known" (.root.Files.Get "files/settings.yaml" | fromYaml)) | fromJson).wrong | default list -}}
{{- $wrong = concat $wrong $settings -}}

{{- $drain := include "brigade.seconds" $set.effective.drain.timeout -}}
{{- if not $drain -}}
{{- $wrong = append $wrong (printf "%s: settings.drain.timeout is %v, which is no duration: write it as 25s, 2m or 1h" $where $set.effective.drain.timeout) -}}
{{- else if lt (include "brigade.grace" $set | float64) (addf $drain 3) -}}
{{- $wrong = append $wrong (printf "%s: terminationGracePeriodSeconds is %s, but a drain takes settings.drain.timeout (%v) and three seconds: leave it empty for %v" $where (include "brigade.grace" $set) $set.effective.drain.timeout (include "brigade.grace" (omit $set "terminationGracePeriodSeconds"))) -}}
{{- end -}}

{{- if eq $values.ledger.kind "sqlite" -}}
{{- if ne $set.scaling.kind "fixed" -}}
{{- $wrong = append $wrong (printf "%s: ledger.kind sqlite is for one worker, and scaling.kind is %s: use postgres, or fixed" $where $set.scaling.kind) -}}
{{- else if gt (int $set.replicas) 1 -}}
{{- $wrong = append $wrong (printf "%s: ledger.kind sqlite is for one worker, and replicas is %d: use postgres, or 1" $where (int $set.replicas)) -}}
{{- end -}}
{{- end -}}

{{- $from := $set.s3.credentials.from -}}
{{- if and (eq $from "secret") (not $set.s3.credentials.secret.name) -}}
{{- $wrong = append $wrong (printf "%s: s3.credentials.secret.name is empty: name the Secret that holds S3's keys, or set s3.credentials.from to irsa or podIdentity" $where) -}}
{{- end -}}
{{- if and (eq $from "irsa") (not $set.s3.credentials.roleArn) -}}
{{- $wrong = append $wrong (printf "%s: s3.credentials.roleArn is empty: name the role that the workers take on" $where) -}}
{{- end -}}
{{- if and (eq $from "irsa") (not $values.serviceAccount.create) -}}
{{- $wrong = append $wrong (printf "%s: s3.credentials.from irsa annotates the service account, so serviceAccount.create must be true. For an annotated one of your own, set s3.credentials.from to none" $where) -}}
{{- end -}}

{{- $limit := include "brigade.mebibytes" (dig "resources" "limits" "memory" "" $set) -}}
{{- $budget := include "brigade.mebibytes" $set.effective.upload.memory_budget -}}
{{- if and $limit $budget -}}
{{- if lt (float64 $limit) (addf $budget 64) -}}
{{- $wrong = append $wrong (printf "%s: resources.limits.memory is %v, but a worker needs settings.upload.memory_budget (%v) and 64 MiB" $where $set.resources.limits.memory $set.effective.upload.memory_budget) -}}
{{- end -}}
{{- end -}}

{{- if ne $set.scaling.kind "fixed" -}}
{{- if gt (int $set.scaling.min) (int $set.scaling.max) -}}
{{- $wrong = append $wrong (printf "%s: scaling.min (%d) is above scaling.max (%d)" $where (int $set.scaling.min) (int $set.scaling.max)) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $set.scaling.kind "hpa") (not $set.scaling.hpa.metrics) (not (dig "resources" "requests" "cpu" "" $set)) -}}
{{- $wrong = append $wrong (printf "%s: scaling.kind hpa compares CPU with resources.requests.cpu, which is empty: set it, or scaling.hpa.metrics" $where) -}}
{{- end -}}
{{- if eq $set.scaling.kind "keda" -}}
{{- $keda := $values.keda -}}
{{- if not $keda.managementUrl -}}
{{- $wrong = append $wrong (printf "%s: scaling.kind keda needs keda.managementUrl: over AMQP KEDA does not see the jobs that workers hold" $where) -}}
{{- end -}}
{{- if not (or $keda.auth.secret.name $keda.auth.triggerAuthentication.name) -}}
{{- $wrong = append $wrong (printf "%s: scaling.kind keda needs keda.auth.secret.name or keda.auth.triggerAuthentication.name" $where) -}}
{{- end -}}
{{- if $keda.circuits.prometheusUrl -}}
{{- if or (gt (int $keda.circuits.replicas) (int $set.scaling.max)) (lt (int $keda.circuits.replicas) (int $set.scaling.min)) -}}
{{- $wrong = append $wrong (printf "%s: keda.circuits.replicas is %d, not between scaling.min (%d) and scaling.max (%d)" $where (int $keda.circuits.replicas) (int $set.scaling.min) (int $set.scaling.max)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "wrong" $wrong | toJson -}}
{{- end }}

{{/* Settings that no worker knows, and those that other values decide: {"wrong": […]}. */}}
{{- define "brigade.refuseSettings" -}}
{{- $wrong := list -}}
{{- $elsewhere := dict
  "settings.amqp.url" "amqp.secret"
  "settings.ledger.url" "ledger.kind and ledger.secret"
  "settings.ledger.migrate" "ledger.migrations.by"
  "settings.http.listen" "http.address and http.port"
  "settings.http.admin_token" "http.adminToken.secret"
  "settings.s3.endpoint" "s3.endpoint"
  "settings.s3.region" "s3.region" -}}
{{- range $key, $value := .settings -}}
{{- $at := printf "%s.%s" $.at $key -}}
{{- if hasKey $elsewhere $at -}}
{{- $wrong = append $wrong (printf "%s: use %s" $at (get $elsewhere $at)) -}}
{{- else if not (hasKey $.known $key) -}}
{{- $wrong = append $wrong (printf "%s is no setting; there are: %s" $at (keys $.known | sortAlpha | join ", ")) -}}
{{- else if kindIs "map" (get $.known $key) -}}
{{- if kindIs "map" $value -}}
{{- $wrong = concat $wrong ((include "brigade.refuseSettings" (dict "at" $at "settings" $value "known" (get $.known $key)) | fromJson).wrong | default list) -}}
{{- else -}}
{{- $wrong = append $wrong (printf "%s is a group of settings, and %v is none" $at $value) -}}
{{- end -}}
{{- else if kindIs "map" $value -}}
{{- $wrong = append $wrong (printf "%s is one value, not a group" $at) -}}
{{- end -}}
{{- end -}}
{{- dict "wrong" $wrong | toJson -}}
{{- end }}
