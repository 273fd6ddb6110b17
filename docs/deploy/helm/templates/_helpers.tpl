{{- define "smtp-bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "smtp-bridge.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "smtp-bridge.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "smtp-bridge.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "smtp-bridge.selector" -}}
app.kubernetes.io/name: {{ include "smtp-bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "smtp-bridge.labels" -}}
{{ include "smtp-bridge.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* `relay.mode` -> SMTP_BRIDGE_RELAY__MODE */ -}}
{{- define "smtp-bridge.variable" -}}
SMTP_BRIDGE_{{ . | replace "." "__" | upper }}
{{- end }}

{{- /* A dict of settings, by name: those of the values' own, then `settings`. */ -}}
{{- define "smtp-bridge.settings" -}}
{{- $own := dict "smtp.shutdown_timeout" (printf "%ds" (int .Values.shutdown.timeout)) "smtp.memory_budget" .Values.memoryBudget "spool.max_bytes" .Values.queueMaxBytes "smtp.listener.allowed_networks" (join "," .Values.smtp.allowedNetworks) }}
{{- with .Values.smtp.hostname }}{{ $_ := set $own "smtp.hostname" . }}{{ end }}
{{- if .Values.smtp.tlsSecret }}
{{- $_ := set $own "tls.cert_file" "/run/secrets/tls/tls.crt" }}
{{- $_ := set $own "tls.key_file" "/run/secrets/tls/tls.key" }}
{{- end }}
{{- with .Values.provider.kind }}{{ $_ := set $own "provider.kind" . }}{{ end }}
{{- if .Values.provider.secret.name }}
{{- range $setting, $key := .Values.provider.secret.keys }}
{{- $_ := set $own (printf "provider.%s_file" $setting) (printf "/run/secrets/provider/%s" $key) }}
{{- end }}
{{- end }}
{{- if .Values.http.enabled }}
{{- $_ := set $own "http.address" "0.0.0.0:8025" }}
{{- $_ := set $own "http.key.name" .Values.http.keyName }}
{{- $_ := set $own "http.key.scopes" (join "," .Values.http.keyScopes) }}
{{- $_ := set $own "http.key.key_hash_file" (printf "/run/secrets/http/%s" .Values.http.keySecret.key) }}
{{- end }}
{{- /* A number as JSON has it: as text 1000000 would be 1e+06. */ -}}
{{- range $name, $value := .Values.settings }}{{ $_ := set $own $name (ternary $value (toJson $value) (kindIs "string" $value)) }}{{ end }}
{{- toJson $own }}
{{- end }}

{{- /* What would render, and then not run. */ -}}
{{- define "smtp-bridge.check" -}}
{{- if and (not .Values.provider.kind) (not .Values.config) }}
{{- fail "provider.kind is empty, and so is config: mail would have nowhere to go" }}
{{- end }}
{{- if and .Values.http.enabled (not .Values.http.keySecret.name) }}
{{- fail "http.enabled needs http.keySecret.name: a Secret with the hash of a key, which `smtp-bridge new-key` makes" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (and .Values.http.enabled .Values.serviceMonitor.keySecret.name)) }}
{{- fail "serviceMonitor.enabled needs http.enabled and serviceMonitor.keySecret.name: metrics are for whoever has a key" }}
{{- end }}
{{- if hasKey .Values.settings "smtp.shutdown_timeout" }}
{{- fail "settings has smtp.shutdown_timeout: give shutdown.timeout, which the pod's grace follows" }}
{{- end }}
{{- end }}
