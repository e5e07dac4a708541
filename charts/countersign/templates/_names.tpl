{{- define "countersign.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "countersign.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "countersign.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "countersign.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "countersign.serviceAccountName" -}}
{{- default (include "countersign.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The operator as the API server knows it. */}}
{{- define "countersign.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "countersign.serviceAccountName" . }}
{{- end -}}

{{- define "countersign.selectorLabels" -}}
app.kubernetes.io/name: {{ include "countersign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "countersign.labels" -}}
{{ include "countersign.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "countersign.readRule" -}}
- apiGroups: [countersign.dev]
  resources: [agentcommands, executionplans, planapprovals, planpolicies, modelproviders]
  verbs: [get, list, watch]
{{- end -}}

{{/* Who removes what belongs to nobody any more: the garbage collector, and what empties a namespace that goes. Without
     accounts of their own the controllers share one. */}}
{{- define "countersign.collectors" -}}
['system:serviceaccount:kube-system:generic-garbage-collector', 'system:serviceaccount:kube-system:namespace-controller', 'system:kube-controller-manager']
{{- end -}}
