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

{{- define "brigade.labels" -}}
{{ include "brigade.selector" . }}
app.kubernetes.io/part-of: bucket-brigade
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- if eq .Release.Service "Helm" }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "brigade.setLabels" -}}
{{ include "brigade.labels" .root }}
app.kubernetes.io/component: {{ .set.name }}
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
