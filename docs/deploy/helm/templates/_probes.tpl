{{- define "smtp-bridge.alive" -}}
{{- if .Values.http.enabled -}}
httpGet:
  path: /healthz
  port: http
{{- else -}}
exec:
  command: [smtp-bridge, health]
{{- end }}
{{- end }}

{{- define "smtp-bridge.ready" -}}
{{- if .Values.http.enabled -}}
httpGet:
  path: /readyz
  port: http
{{- else -}}
exec:
  command: [smtp-bridge, health, --ready]
{{- end }}
{{- end }}

{{- /* A dict of Secrets, by the volume and the directory below /run/secrets that each is. */ -}}
{{- define "smtp-bridge.secrets" -}}
{{- $found := dict }}
{{- with .Values.provider.secret.name }}{{ $_ := set $found "provider" . }}{{ end }}
{{- with .Values.smtp.tlsSecret }}{{ $_ := set $found "tls" . }}{{ end }}
{{- with .Values.extraSecret }}{{ $_ := set $found "extra" . }}{{ end }}
{{- if .Values.http.enabled }}{{ $_ := set $found "http" .Values.http.keySecret.name }}{{ end }}
{{- toJson $found }}
{{- end }}
