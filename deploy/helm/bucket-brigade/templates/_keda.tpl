{{/*
What KEDA asks and how it counts: {"root": …, "set": …}.

One question a lane: the length of its queue through RabbitMQ's management API, which counts the jobs that workers hold,
too. With `keda.circuits.prometheusUrl` one question more for each circuit: whether it is not closed at the set's workers.
A formula makes a number of replicas of the answers: of each lane the jobs by those that keep one worker busy, with an open
circuit at most keda.circuits.replicas; of the lanes the largest.
*/}}

{{- define "brigade.kedaTriggers" -}}
{{- $root := .root -}}
{{- $set := .set -}}
{{- $keda := $root.Values.keda -}}
{{- $auth := $keda.auth.triggerAuthentication -}}
{{- range $set.lanes }}
- type: rabbitmq
  name: jobs_{{ . }}
  metricType: AverageValue
  metadata:
    protocol: http
    host: {{ $keda.managementUrl | quote }}
    vhostName: {{ $keda.vhost | quote }}
    queueName: {{ printf "%s.%s" $set.effective.amqp.prefix . }}
    mode: QueueLength
    value: {{ include "brigade.jobsPerReplica" (dict "set" $set "lane" .) | quote }}
    {{- if $keda.unsafeSsl }}
    unsafeSsl: "true"
    {{- end }}
  authenticationRef:
    name: {{ $auth.name | default (printf "%s-rabbitmq" (include "brigade.fullname" $root)) }}
    {{- if $auth.name }}
    kind: {{ $auth.kind }}
    {{- end }}
{{- end }}
{{- if $keda.circuits.prometheusUrl }}
{{- range $set.lanes }}
{{- with include "brigade.circuit" . }}
- type: prometheus
  name: open_{{ . }}
  metricType: AverageValue
  metadata:
    serverAddress: {{ $keda.circuits.prometheusUrl | quote }}
    query: {{ include "brigade.openQuery" (dict "root" $root "set" $set "circuit" .) | quote }}
    threshold: "1"
  {{- with $keda.circuits.triggerAuthentication.name }}
  authenticationRef:
    name: {{ . }}
    kind: {{ $keda.circuits.triggerAuthentication.kind }}
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* 1 while the circuit is not closed at that share of the set's workers, else 0; also 0 when nobody knows. */}}
{{- define "brigade.openQuery" -}}
{{- $pods := printf "namespace=\"%s\", pod=~\"%s-[0-9a-z]+-[0-9a-z]+\"" .root.Release.Namespace (include "brigade.setName" .) -}}
(avg(1 - brigade_circuit_state{ {{- $pods }}, circuit="{{ .circuit }}", state="closed"}) >= bool {{ .root.Values.keda.circuits.share }}) or vector(0)
{{- end }}

{{/* Plain arithmetic, so that what it yields can be computed anywhere. */}}
{{- define "brigade.kedaFormula" -}}
{{- $set := .set -}}
{{- $max := int $set.scaling.max -}}
{{- $less := sub $max (int .root.Values.keda.circuits.replicas) -}}
{{- $lanes := list -}}
{{- range $set.lanes -}}
{{- $jobs := printf "jobs_%s / %s.0" . (include "brigade.jobsPerReplica" (dict "set" $set "lane" .)) -}}
{{- with include "brigade.circuit" . -}}
{{- $jobs = printf "min(%s, %d.0 - %d.0 * open_%s)" $jobs $max $less . -}}
{{- end -}}
{{- $lanes = append $lanes $jobs -}}
{{- end -}}
{{- if gt (len $lanes) 1 -}}
max({{ join ", " $lanes }})
{{- else -}}
{{ first $lanes }}
{{- end -}}
{{- end }}
