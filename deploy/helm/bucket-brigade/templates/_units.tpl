{{/* Durations as the worker writes them (500ms, 25s, 2m, 24h, 14d), in seconds; empty for anything else. */}}
{{- define "brigade.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- $text := toString . | trim -}}
{{- if regexMatch "^[0-9]+ ?(ms|s|m|h|d)$" $text -}}
{{- mulf (regexFind "^[0-9]+" $text | float64) (get $units (regexFind "[a-z]+$" $text)) -}}
{{- end -}}
{{- end }}

{{/* Sizes as the worker (64MiB) or Kubernetes (256Mi) writes them, in MiB; empty for anything else. */}}
{{- define "brigade.mebibytes" -}}
{{- $kibi := divf 1 1024 -}}
{{- $units := dict "Ki" $kibi "Mi" 1 "Gi" 1024 "Ti" 1048576 "" (divf 1 1048576) "k" (divf 1000 1048576) "M" (divf 1000000 1048576) "G" (divf 1000000000 1048576) -}}
{{- $text := toString . | trim -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)? ?(Ki|Mi|Gi|Ti|k|M|G)?B?$" $text -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text | trimSuffix "B")) -}}
{{- end -}}
{{- end }}

{{/* A setting's value as a variable holds it. Helm reads whole numbers as floats, which would print as 1e+06. */}}
{{- define "brigade.scalar" -}}
{{- if kindIs "slice" . -}}
{{- toJson . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end }}
