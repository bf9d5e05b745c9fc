{{/*
The sets of workers, each with all its values: `workerDefaults`, then its own entry in `workers`. As JSON: {"sets": […]}.
A set gains `settings`, its own settings on those of the release; `s3`, likewise; and `effective`, these settings on the
worker's own defaults (files/settings.yaml), which is what the chart computes with.
*/}}
{{- define "brigade.sets" -}}
{{- $defaults := .Files.Get "files/settings.yaml" | fromYaml -}}
{{- $sets := list -}}
{{- range .Values.workers -}}
{{- $set := mergeOverwrite (deepCopy $.Values.workerDefaults) (deepCopy .) -}}
{{- $settings := mergeOverwrite (deepCopy $.Values.settings) (deepCopy ($set.settings | default dict)) -}}
{{- $_ := set $set "settings" $settings -}}
{{- $_ := set $set "s3" (mergeOverwrite (deepCopy $.Values.s3) (deepCopy ($set.s3 | default dict))) -}}
{{- $_ := set $set "effective" (mergeOverwrite (deepCopy $defaults) (deepCopy $settings)) -}}
{{- $sets = append $sets $set -}}
{{- end -}}
{{- dict "sets" $sets | toJson -}}
{{- end }}

{{/* Settings as variables of the container: {"prefix": "BRIGADE_", "settings": {…}}. */}}
{{- define "brigade.settingsEnv" -}}
{{- range $key, $value := .settings -}}
{{- $name := printf "%s%s" $.prefix (upper $key) -}}
{{- if kindIs "map" $value -}}
{{- include "brigade.settingsEnv" (dict "prefix" (printf "%s__" $name) "settings" $value) -}}
{{- else if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ include "brigade.scalar" $value | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* How long SIGTERM may take, in seconds: what is set, or drain.timeout and 15 s. */}}
{{- define "brigade.grace" -}}
{{- if .terminationGracePeriodSeconds -}}
{{- int64 .terminationGracePeriodSeconds -}}
{{- else -}}
{{- add (include "brigade.seconds" .effective.drain.timeout | float64 | ceil | int64) 15 -}}
{{- end -}}
{{- end }}

{{/* How many jobs of a lane keep one worker busy: {"set": …, "lane": …}. */}}
{{- define "brigade.jobsPerReplica" -}}
{{- $lane := get .set.effective.lanes .lane -}}
{{- $own := get (.set.scaling.keda.jobsPerReplica | default dict) .lane -}}
{{- if $own -}}
{{- int64 $own -}}
{{- else if eq .lane "cleanup" -}}
{{- int64 $lane.prefetch -}}
{{- else -}}
{{- int64 $lane.concurrency -}}
{{- end -}}
{{- end }}

{{/* The circuit that guards a lane; none for cleanup. */}}
{{- define "brigade.circuit" -}}
{{- get (dict "upload" "upload" "read" "download") . -}}
{{- end }}
