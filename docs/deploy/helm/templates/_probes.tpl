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

{{- /* Whether clients may connect. Not /readyz: while a provider refuses the account, mail that comes in waits; it is not turned away. */ -}}
{{- define "smtp-bridge.ready" -}}
exec:
  command: [smtp-bridge, health, --ready, --smtp]
{{- end }}

{{- /* A dict of Secrets, by the volume and the directory below /run/secrets that each is. */ -}}
{{- define "smtp-bridge.secrets" -}}
{{- $found := dict }}
{{- with .Values.provider.secret.name }}{{ $_ := set $found "provider" . }}{{ end }}
{{- with .Values.smtp.tlsSecret }}{{ $_ := set $found "tls" . }}{{ end }}
{{- with .Values.extraSecret }}{{ $_ := set $found "extra" . }}{{ end }}
{{- if .Values.http.enabled }}{{ with .Values.http.keySecret.name }}{{ $_ := set $found "http" . }}{{ end }}{{ end }}
{{- toJson $found }}
{{- end }}
