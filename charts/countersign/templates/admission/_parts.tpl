{{/* The version in which this cluster serves MutatingAdmissionPolicy. */}}
{{- define "countersign.mutatingVersion" -}}
{{- if semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version -}}
admissionregistration.k8s.io/v1
{{- else -}}
admissionregistration.k8s.io/v1beta1
{{- end -}}
{{- end -}}

{{/* Who calls, in the form of spec.requestedBy and spec.approver. */}}
{{- define "countersign.caller" -}}
{"username": dyn(request.userInfo.username), "groups": dyn(request.userInfo.?groups.orValue([]))}
{{- end -}}

{{/* Whether an AgentCommand still asks for what it asked for before. A rating or a pause is not a new request: who
     stops somebody else's request must not become the one who asked for it. */}}
{{- define "countersign.sameRequest" -}}
oldObject != null &&
object.spec.all(key, key in ['requestedBy', 'feedback', 'suspend'] ||
  (key in oldObject.spec && object.spec[key] == oldObject.spec[key])) &&
oldObject.spec.all(key, key in ['requestedBy', 'feedback', 'suspend'] || key in object.spec)
{{- end -}}

{{/* Who calls, as text: the annotation countersign.dev/requested-by. */}}
{{- define "countersign.callerText" -}}
'{"username":' + strings.quote(request.userInfo.username) + ',"groups":[' +
request.userInfo.?groups.orValue([]).map(group, strings.quote(group)).join(',') + ']}'
{{- end -}}
