{{- define "quorate.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "quorate.image" -}}
{{- printf "%s:%s" .Values.image.repository .Values.image.tag -}}
{{- end -}}

{{- define "quorate.labels" -}}
app.kubernetes.io/name: quorate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Client addresses of the first replicas, one of which is enough to find the others. */}}
{{- define "quorate.endpoints" -}}
{{- $name := include "quorate.name" . -}}
{{- range $i := until (int .Values.replicas.count) -}}
{{- if $i }},{{ end -}}
{{ $name }}-{{ $i }}.{{ $name }}-peers:13333
{{- end -}}
{{- end -}}

{{/* The first members, for `quorate init`. */}}
{{- define "quorate.members" -}}
{{- $name := include "quorate.name" . -}}
{{- range $i := until (int .Values.replicas.count) -}}
{{- if $i }},{{ end -}}
{{ $name }}-{{ $i }}.{{ $name }}-peers:13334={{ $name }}-{{ $i }}.{{ $name }}-peers:13333
{{- end -}}
{{- end -}}

{{/* What a client of the replicas is told by its environment. */}}
{{- define "quorate.clientEnv" -}}
- name: QUORATE_ENDPOINTS
  value: {{ include "quorate.endpoints" . | quote }}
- name: QUORATE_TLS_CA
  value: /etc/quorate/certs/ca.pem
- name: QUORATE_TLS_CERT
  value: /etc/quorate/certs/client.pem
- name: QUORATE_TLS_KEY
  value: /etc/quorate/certs/client-key.pem
{{- end -}}
