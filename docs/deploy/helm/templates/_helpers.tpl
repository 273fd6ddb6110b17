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

{{- /* (config, "smtp", "listener") -> "true" when that TOML has such a table, in any way it can be written; else "". */ -}}
{{- define "smtp-bridge.has-table" -}}
{{- $config := index . 0 }}
{{- $outer := index . 1 }}
{{- $inner := index . 2 }}
{{- $full := printf `(?m)^[ \t]*(\[\[?[ \t]*)?"?%s"?[ \t]*\.[ \t]*"?%s"?[ \t]*[\].=]` $outer $inner }}
{{- $inline := printf `(?m)^[ \t]*%s[ \t]*=[ \t]*\{[^\n#]*\b%s\b` $outer $inner }}
{{- $within := printf `(?m)^[ \t]*\[[ \t]*%s[ \t]*\][^\n]*\n([ \t\r]*([^\[\s][^\n]*)?\n)*?[ \t]*"?%s"?[ \t]*[.=]` $outer $inner }}
{{- if or (regexMatch $full $config) (regexMatch $inline $config) (regexMatch $within $config) }}true{{ end }}
{{- end }}

{{- /* "8GiB", "10Gi", "512M", or a number, in octets as text; "" for what cannot be read. The bridge and Kubernetes mean the same. */ -}}
{{- define "smtp-bridge.octets" -}}
{{- $text := ternary . (toJson .) (kindIs "string" .) }}
{{- if regexMatch `^[0-9]+(\.[0-9]+)? ?([kKMGTPE]i?|[kKmMgGtT]?[iI]?[bB])?$` $text }}
{{- $octets := regexFind `^[0-9.]+` $text | float64 }}
{{- $base := ternary 1024 1000 (regexMatch `[iI]` $text) }}
{{- $prefix := regexFind `[kKmMgGtTPE]` $text | upper }}
{{- range until (get (dict "" 0 "K" 1 "M" 2 "G" 3 "T" 4 "P" 5 "E" 6) $prefix | int) }}{{ $octets = mulf $octets $base }}{{ end }}
{{- $octets }}
{{- end }}
{{- end }}

{{- /* Defaults that `keys` and `clients` do not hold themselves: Helm would merge them with yours. */ -}}
{{- define "smtp-bridge.keys" -}}
{{- .Values.provider.secret.keys | default (dict "api_key" "api-key") | toJson }}
{{- end }}

{{- define "smtp-bridge.clients" -}}
{{- .Values.networkPolicy.clients | default (dict "smtp-bridge/client" "true") | toJson }}
{{- end }}

{{- define "smtp-bridge.service-account" -}}
{{- .Values.serviceAccount.name | default (ternary (include "smtp-bridge.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- /* A dict of settings, by name: those of the values' own, then `settings`. Not those that `config` has tables for. */ -}}
{{- define "smtp-bridge.settings" -}}
{{- $own := dict "smtp.shutdown_timeout" (printf "%ds" (int .Values.shutdown.timeout)) "smtp.memory_budget" .Values.memoryBudget "spool.max_bytes" .Values.queueMaxBytes }}
{{- if not (include "smtp-bridge.has-table" (list .Values.config "smtp" "listener")) }}
{{- $_ := set $own "smtp.listener.allowed_networks" (join "," .Values.smtp.allowedNetworks) }}
{{- end }}
{{- with .Values.smtp.hostname }}{{ $_ := set $own "smtp.hostname" . }}{{ end }}
{{- if .Values.smtp.tlsSecret }}
{{- $_ := set $own "tls.cert_file" "/run/secrets/tls/tls.crt" }}
{{- $_ := set $own "tls.key_file" "/run/secrets/tls/tls.key" }}
{{- end }}
{{- with .Values.provider.kind }}{{ $_ := set $own "provider.kind" . }}{{ end }}
{{- if .Values.provider.secret.name }}
{{- range $setting, $key := include "smtp-bridge.keys" . | fromJson }}
{{- $_ := set $own (printf "provider.%s_file" $setting) (printf "/run/secrets/provider/%s" $key) }}
{{- end }}
{{- end }}
{{- if .Values.http.enabled }}
{{- $_ := set $own "http.address" "0.0.0.0:8025" }}
{{- if not (include "smtp-bridge.has-table" (list .Values.config "http" "key")) }}
{{- $_ := set $own "http.key.name" .Values.http.keyName }}
{{- $_ := set $own "http.key.scopes" (join "," .Values.http.keyScopes) }}
{{- $_ := set $own "http.key.key_hash_file" (printf "/run/secrets/http/%s" .Values.http.keySecret.key) }}
{{- end }}
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
{{- if and .Values.http.enabled (not .Values.http.keySecret.name) (not (include "smtp-bridge.has-table" (list .Values.config "http" "key"))) }}
{{- fail "http.enabled needs http.keySecret.name, a Secret with the hash of a key, which `smtp-bridge new-key` makes; or keys in config" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (and .Values.http.enabled .Values.serviceMonitor.keySecret.name)) }}
{{- fail "serviceMonitor.enabled needs http.enabled and serviceMonitor.keySecret.name: metrics are for whoever has a key" }}
{{- end }}
{{- if hasKey .Values.settings "smtp.shutdown_timeout" }}
{{- fail "settings has smtp.shutdown_timeout: give shutdown.timeout, which the pod's grace follows" }}
{{- end }}
{{- include "smtp-bridge.check-sizes" . }}
{{- end }}

{{- /* A limit of the bridge's that is above its volume's or its pod's is none: the pod is evicted or killed first. */ -}}
{{- define "smtp-bridge.check-sizes" -}}
{{- $settings := include "smtp-bridge.settings" . | fromJson }}
{{- $queue := get $settings "spool.max_bytes" }}
{{- $volume := include "smtp-bridge.octets" .Values.persistence.size | float64 }}
{{- with include "smtp-bridge.octets" $queue }}
{{- if and $volume (or (ge (float64 .) $volume) (and (not $.Values.persistence.enabled) (eq (float64 .) 0.0))) }}
{{- fail (printf "queueMaxBytes (%s) must be below persistence.size (%s)" $queue $.Values.persistence.size) }}
{{- end }}
{{- end }}
{{- $budget := get $settings "smtp.memory_budget" }}
{{- $limit := (.Values.resources.limits | default dict).memory }}
{{- if and $limit (include "smtp-bridge.octets" $limit) (include "smtp-bridge.octets" $budget) }}
{{- /* 96 MiB: what the bridge holds when idle, and a probe that runs beside it. */}}
{{- $needed := addf (include "smtp-bridge.octets" $budget | float64) (mulf 96 1024 1024) }}
{{- if lt (include "smtp-bridge.octets" $limit | float64) $needed }}
{{- fail (printf "resources.limits.memory (%v) must be at least memoryBudget (%s) and 96Mi" $limit $budget) }}
{{- end }}
{{- end }}
{{- end }}
