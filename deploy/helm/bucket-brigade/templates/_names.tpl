{{/* Names and labels. Each takes the root, or a dictionary with `root` and `set`. */}}

{{- define "brigade.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* 40 characters at most, so that a set's name and what Kubernetes appends still fit. */}}
{{- define "brigade.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "brigade.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "brigade.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "brigade.setName" -}}
{{- printf "%s-%s" (include "brigade.fullname" .root) .set.name -}}
{{- end }}

{{- define "brigade.serviceAccountName" -}}
{{- if .root.Values.serviceAccount.create -}}
{{- include "brigade.setName" . -}}
{{- else -}}
{{- .root.Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* What selects the pods of the release, of all sets. It never changes: selectors are immutable. */}}
{{- define "brigade.selector" -}}
app.kubernetes.io/name: {{ include "brigade.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "brigade.setSelector" -}}
{{ include "brigade.selector" .root }}
app.kubernetes.io/component: {{ .set.name }}
{{- end }}

{{/*
The labels of an object: {"root": …, "component": … or none, "more": … or none}. Merged, since a key may not occur twice: the
user's own never take the place of the chart's.
*/}}
{{- define "brigade.labels" -}}
{{- $root := .root -}}
{{- $labels := include "brigade.selector" $root | fromYaml -}}
{{- $tag := $root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 -}}
{{- $_ := set $labels "app.kubernetes.io/version" (regexReplaceAll "[^A-Za-z0-9]+$" $tag "") -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "bucket-brigade" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- with .component -}}
{{- $_ := set $labels "app.kubernetes.io/component" . -}}
{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy $root.Values.commonLabels) (deepCopy (.more | default dict)) $labels) -}}
{{- end }}

{{- define "brigade.setLabels" -}}
{{- include "brigade.labels" (dict "root" .root "component" .set.name) -}}
{{- end }}

{{/* The labels of a set's pods. Not the chart's version: it would replace all pods by itself. */}}
{{- define "brigade.podLabels" -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.commonLabels) (deepCopy .set.podLabels) (include "brigade.setSelector" . | fromYaml)) -}}
{{- end }}

{{- define "brigade.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end }}
