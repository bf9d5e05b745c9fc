{{/* What workers and the migration share: neither root, nor a privilege, nor a writable root file system. */}}

{{- define "brigade.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "brigade.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* One Secret's key as a file of the volume `secrets`. */}}
{{- define "brigade.secretSource" -}}
- secret:
    name: {{ .secret.name }}
    items:
      - key: {{ .secret.key }}
        path: {{ .path }}
{{- end }}

{{/* The pod of a set: {"root": …, "set": …}. */}}
{{- define "brigade.pod" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $set := .set -}}
{{- $sqlite := eq $values.ledger.kind "sqlite" -}}
serviceAccountName: {{ include "brigade.serviceAccountName" . }}
# A role's token (IRSA, Pod Identity) is mounted by itself; the worker never talks to Kubernetes.
automountServiceAccountToken: false
# Else Kubernetes would put BRIGADE_… variables of services into the container.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "brigade.grace" $set }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $set.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $set.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $set.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $set.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $set.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range $set.topologySpread.keys }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ $set.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "brigade.setSelector" (dict "root" $root "set" $set) | nindent 8 }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "brigade.podSecurity" . | nindent 2 }}
containers:
  - name: worker
    image: {{ include "brigade.image" $root }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args: [worker, --lanes, {{ join "," $set.lanes | quote }}]
    env:
      {{- include "brigade.env" . | nindent 6 }}
    ports:
      - name: http
        containerPort: {{ $values.http.port }}
    # Answers as soon as the settings are read; RabbitMQ and the ledger are not waited for.
    startupProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 2
      timeoutSeconds: 5
      failureThreshold: 60
    # Never depends on RabbitMQ, S3 or the ledger: a restart mends none of them.
    livenessProbe:
      httpGet: {path: /livez, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    # 503 while broker or ledger are away. Nobody routes to the pod; a rollout waits for it.
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    {{- with $set.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- include "brigade.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - name: secrets
        mountPath: /etc/brigade/secrets
        readOnly: true
      - name: tmp
        mountPath: /tmp
      {{- if $sqlite }}
      - name: ledger
        mountPath: /var/lib/brigade
      {{- end }}
      {{- with $set.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: secrets
    projected:
      # For the group, which is the worker's own.
      defaultMode: 0440
      sources:
        {{- include "brigade.secretSource" (dict "secret" $values.amqp.secret "path" "amqp-url") | nindent 8 }}
        {{- if not $sqlite }}
        {{- include "brigade.secretSource" (dict "secret" $values.ledger.secret "path" "database-url") | nindent 8 }}
        {{- end }}
        {{- if $values.http.adminToken.secret.name }}
        {{- include "brigade.secretSource" (dict "secret" $values.http.adminToken.secret "path" "admin-token") | nindent 8 }}
        {{- end }}
        {{- if eq $set.s3.credentials.from "secret" }}
        {{- include "brigade.secretSource" (dict "secret" $set.s3.credentials.secret "path" "s3-credentials") | nindent 8 }}
        {{- end }}
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- if $sqlite }}
  - name: ledger
    persistentVolumeClaim:
      claimName: {{ $values.ledger.volume.existingClaim | default (printf "%s-ledger" (include "brigade.fullname" $root)) }}
  {{- end }}
  {{- with $set.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The variables of a set's container. */}}
{{- define "brigade.env" -}}
{{- $values := .root.Values -}}
{{- $set := .set -}}
- name: AMQP_URL_FILE
  value: /etc/brigade/secrets/amqp-url
{{- if eq $values.ledger.kind "sqlite" }}
- name: DATABASE_URL
  value: sqlite:///var/lib/brigade/ledger.db
{{- else }}
- name: DATABASE_URL_FILE
  value: /etc/brigade/secrets/database-url
{{- end }}
- name: BRIGADE_LEDGER__MIGRATE
  value: {{ eq $values.ledger.migrations.by "workers" | quote }}
- name: BRIGADE_HTTP__LISTEN
  value: {{ printf "%s:%d" $values.http.address (int $values.http.port) | quote }}
{{- if $values.http.adminToken.secret.name }}
- name: BRIGADE_HTTP__ADMIN_TOKEN_FILE
  value: /etc/brigade/secrets/admin-token
{{- end }}
{{- with $set.s3.region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- with $set.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- if eq $set.s3.credentials.from "secret" }}
- name: AWS_SHARED_CREDENTIALS_FILE
  value: /etc/brigade/secrets/s3-credentials
{{- end }}
{{- include "brigade.settingsEnv" (dict "prefix" "BRIGADE_" "settings" $set.settings) }}
{{- with $set.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
