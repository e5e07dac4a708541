package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// How the pods of the cluster behave. No container ever runs: kwok plays these stages on the pod's status, and everything
// above it (deployments, quotas, disruption budgets, the scheduler) is real and believes it. What a pod does is told by
// its image's tag:
//
//	:broken   cannot be pulled: ErrImagePull, a second later ImagePullBackOff
//	:crash    exits with 1 at once: CrashLoopBackOff
//	:oom      the same, killed for its memory: exit code 137, OOMKilled
//	:slow     runs, and is ready only after ten seconds
//	:flaky    is ready at once and crashes eight seconds later
//	others    ready at once; in a job, done after a second
//
// The tags broken and crash count on init containers, too. With several containers the one that is worst off decides,
// and the others run. The stages are made here instead of written down because they share most of their text, and kwok
// has no way to say so. Their selectors exclude each other: among several that match, kwok picks at random.

// The worst tag of a pod's containers; the alphabet happens to sort them.
const (
	podTag  = `[.spec.containers[].image | capture(":(?<tag>broken|crash|flaky|oom|slow)(@.+)?$").tag] | sort | .[0] // "ready"`
	initTag = `[.spec.initContainers[]?.image | capture(":(?<tag>broken|crash)(@.+)?$").tag] | sort | .[0] // "ready"`
)

// match is one demand on a pod: an expression of jq and what it may come to. No values: it must come to nothing.
type match struct {
	expr   string
	values []string
}

func tagged(tags ...string) match     { return match{podTag, tags} }
func initTagged(tags ...string) match { return match{initTag, tags} }
func waitingFor(reason string) match {
	return match{`.status.containerStatuses[]?.state.waiting.reason`, []string{reason}}
}
func readyIs(status string) match {
	return match{`.status.conditions[]? | select(.type == "Ready") | .status`, []string{status}}
}
func neverRestarted(yes bool) match {
	return match{`.spec.restartPolicy == "Never"`, []string{fmt.Sprint(yes)}}
}

var untouched = match{expr: `.status.containerStatuses`}

// stage is one step in the life of a pod.
type stage struct {
	name    string
	when    []match
	delayMs int
	// until is an expression for the moment to wait for. Counted from the pod's start, and not from the last change to
	// it, so that a new label does not make a slow pod slower.
	until  string
	event  [3]string // type, reason, message
	status []string  // pieces of the template
}

// Pieces of the templates. $now and $root are set by every one of them.
const (
	names = `[{{ range $i, $c := .spec.containers }}{{ if $i }} {{ end }}{{ $c.name }}{{ end }}]`

	initialized = `
- type: Initialized
  status: "True"
  lastTransitionTime: {{ $now | Quote }}`
	notInitialized = `
- type: Initialized
  status: "False"
  reason: ContainersNotInitialized
  message: 'containers with incomplete status: [{{ range $i, $c := .spec.initContainers }}{{ if $i }} {{ end }}{{ $c.name }}{{ end }}]'
  lastTransitionTime: {{ $now | Quote }}`
	becameReady = `
{{ range list "Ready" "ContainersReady" }}
- type: {{ . }}
  status: "True"
  reason: null
  message: null
  lastTransitionTime: {{ $now | Quote }}
{{ end }}
{{ range .spec.readinessGates }}
- type: {{ .conditionType | Quote }}
  status: "True"
  lastTransitionTime: {{ $now | Quote }}
{{ end }}`

	// Written once: a second write would hand out a second address.
	placed = `
{{ with NodeIPsWith .spec.nodeName }}
hostIP: {{ index . 0 | Quote }}
hostIPs: [{ip: {{ index . 0 | Quote }}}]
{{ end }}
{{ with PodIPsWith .spec.nodeName (or .spec.hostNetwork false) (or .metadata.uid "") (or .metadata.name "") (or .metadata.namespace "") }}
podIP: {{ index . 0 | Quote }}
podIPs: [{ip: {{ index . 0 | Quote }}}]
{{ end }}
startTime: {{ $now | Quote }}`

	initDone = `
{{ if .spec.initContainers }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state:
  {{ if eq (or .restartPolicy "") "Always" }}
    running: {startedAt: {{ $now | Quote }}}
  started: true
  {{ else }}
    terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}
  {{ end }}
{{ end }}
{{ end }}`
)

func notReady(reason string) string {
	return `
{{ range list "Ready" "ContainersReady" }}
- type: {{ . }}
  status: "False"
  reason: ` + reason + `
  message: 'containers with unready status: ` + strings.ReplaceAll(names, ".spec", "$root.spec") + `'
  lastTransitionTime: {{ $now | Quote }}
{{ end }}`
}

// containers writes a status for each container: failing for those whose image has one of the tags, other for the rest.
func containers(field, tags, failing, other string) string {
	list := map[string]string{"containerStatuses": "containers", "initContainerStatuses": "initContainers"}[field]
	return "\n" + field + ":\n{{ range .spec." + list + " }}\n" +
		"- name: {{ .name | Quote }}\n  image: {{ .image | Quote }}\n" +
		"{{ if regexMatch \":(" + tags + ")(@.+)?$\" .image }}" + failing + "\n{{ else }}" + other + "\n{{ end }}\n{{ end }}"
}

const (
	runs = `
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}`
	runsUnready = `
  ready: false
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}`
	pullFailed = `
  ready: false
  started: false
  restartCount: 0
  state:
    waiting:
      reason: ErrImagePull
      message: 'rpc error: code = NotFound desc = failed to pull and unpack image "{{ .image }}": not found'`
	pullBackOff = `
  ready: false
  started: false
  restartCount: 0
  state:
    waiting:
      reason: ImagePullBackOff
      message: 'Back-off pulling image "{{ .image }}"'`
	waitsForInit = `
  ready: false
  started: false
  restartCount: 0
  state: {waiting: {reason: PodInitializing}}`
	exit = `terminated:
      {{ if regexMatch ":oom(@.+)?$" .image }}
      exitCode: 137
      reason: OOMKilled
      {{ else }}
      exitCode: 1
      reason: Error
      {{ end }}
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}`
	crashed = `
  ready: false
  started: false
  restartCount: {{ $count }}
  state:
    waiting:
      reason: CrashLoopBackOff
      message: 'back-off {{ $backOff }} restarting failed container={{ .name }} pod={{ $root.metadata.name }}_{{ $root.metadata.namespace }}({{ $root.metadata.uid }})'
  lastState:
    ` + exit
	failedForGood = `
  ready: false
  started: false
  restartCount: 0
  state:
    ` + exit
	completed = `
  ready: false
  started: false
  restartCount: 0
  state:
    terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}`

	firstCrash = "\n{{ $count := 1 }}{{ $backOff := \"10s\" }}"
	// The count and the back-off of one more crash, doubling up to the kubelet's five minutes.
	nextCrash = `
{{ $count := 1 }}{{ range .status.containerStatuses }}{{ $count = max $count (add1 .restartCount) }}{{ end }}
{{ $backOff := "5m0s" }}{{ if lt $count 6 }}{{ $backOff = index (list "10s" "10s" "20s" "40s" "1m20s" "2m40s") $count }}{{ end }}`
)

// noTag matches no image, for stages in which all containers are alike.
const noTag = "there is no such tag"

func stages() []stage {
	const (
		conditions = "\nconditions:"
		pending    = "\nphase: Pending"
		running    = "\nphase: Running"
		own        = "containerStatuses"
		inits      = "initContainerStatuses"
	)
	unready := notReady("ContainersNotReady")
	backOff := [3]string{"Warning", "BackOff", "Back-off restarting failed container"}
	waits := containers(own, noTag, "", waitsForInit)
	return []stage{
		{name: "pod-init-broken", when: []match{initTagged("broken"), untouched},
			event: [3]string{"Warning", "Failed", "Error: ImagePullBackOff"},
			status: []string{conditions, notInitialized, unready,
				containers(inits, "broken", pullBackOff, waitsForInit), waits, placed, pending}},
		{name: "pod-init-crash", when: []match{initTagged("crash"), untouched}, event: backOff,
			status: []string{firstCrash, conditions, notInitialized, unready,
				containers(inits, "crash", crashed, waitsForInit), waits, placed, pending}},
		{name: "pod-pull-failed", when: []match{initTagged("ready"), tagged("broken"), untouched},
			event: [3]string{"Warning", "Failed", "Error: ErrImagePull"},
			status: []string{conditions, initialized, unready, initDone,
				containers(own, "broken", pullFailed, runs), placed, pending}},
		{name: "pod-pull-back-off", when: []match{tagged("broken"), waitingFor("ErrImagePull")}, delayMs: 1000,
			event:  [3]string{"Warning", "Failed", "Error: ImagePullBackOff"},
			status: []string{containers(own, "broken", pullBackOff, runs)}},
		// The phase of a pod whose container crashes is Running, as the kubelet has it.
		{name: "pod-crash", when: []match{initTagged("ready"), tagged("crash", "oom"), untouched, neverRestarted(false)},
			event: backOff,
			status: []string{firstCrash, conditions, initialized, unready, initDone,
				containers(own, "crash|oom", crashed, runs), placed, running}},
		// The same in a pod that is not restarted, as jobs have them.
		{name: "pod-failed", when: []match{initTagged("ready"), tagged("crash", "oom"), untouched, neverRestarted(true)},
			status: []string{conditions, initialized, notReady("PodFailed"), initDone,
				containers(own, "crash|oom", failedForGood, completed), placed, "\nphase: Failed"}},
		// Ready long enough to be believed, then gone. One second more, because start times are cut to whole seconds.
		{name: "pod-flaky-crash", when: []match{tagged("flaky"), readyIs("True")},
			until: `(.status.startTime | fromdate) + 9 | todate`, event: backOff,
			status: []string{firstCrash, conditions, unready, containers(own, "flaky", crashed, runs), running}},
		// The count goes on while somebody looks, and stops before it becomes load.
		{name: "pod-restart", when: []match{tagged("crash", "oom", "flaky"), waitingFor("CrashLoopBackOff"),
			{`[.status.containerStatuses[]?.restartCount] | max < 10`, []string{"true"}}}, delayMs: 20_000, event: backOff,
			status: []string{nextCrash, containers(own, "crash|oom|flaky", crashed, runs)}},
		{name: "pod-slow-start", when: []match{initTagged("ready"), tagged("slow"), untouched},
			status: []string{conditions, initialized, unready, initDone,
				containers(own, "slow", runsUnready, runs), placed, running}},
		{name: "pod-slow-ready", when: []match{tagged("slow"), readyIs("False"), {`.status.phase`, []string{"Running"}}},
			until:  `(.status.startTime | fromdate) + 11 | todate`,
			status: []string{conditions, becameReady, containers(own, noTag, "", runs)}},
		{name: "pod-ready", when: []match{initTagged("ready"), tagged("ready", "flaky"), untouched},
			status: []string{conditions, initialized, becameReady, initDone, containers(own, noTag, "", runs), placed, running}},
		{name: "pod-complete", when: []match{tagged("ready", "slow"), readyIs("True"),
			{`.metadata.ownerReferences[]?.kind`, []string{"Job"}}}, delayMs: 1000,
			status: []string{conditions, notReady("PodCompleted"), containers(own, noTag, "", completed), "\nphase: Succeeded"}},
	}
}

type object = map[string]any

// podStages renders the stages as kwok reads them: documents of JSON, which is YAML.
func podStages() ([]byte, error) {
	alive := []match{{expr: `.metadata.deletionTimestamp`}, {`.status.phase`, []string{"Pending", "Running"}}}
	var docs []object
	for _, s := range stages() {
		spec := object{"selector": selector(append(alive, s.when...))}
		switch {
		case s.until != "":
			spec["delay"] = object{"durationFrom": object{"jq": object{"expression": s.until}}}
		case s.delayMs != 0:
			spec["delay"] = object{"durationMilliseconds": s.delayMs}
		}
		var steps []object
		if s.event[0] != "" {
			steps = append(steps, object{"event": object{"type": s.event[0], "reason": s.event[1], "message": s.event[2]}})
		}
		template := "{{ $now := Now }}{{ $root := . }}" + strings.Join(s.status, "") + "\n"
		spec["steps"] = append(steps, object{"patch": object{"root": "status", "subresource": "status", "template": template}})
		docs = append(docs, document(s.name, spec))
	}
	// A deleted pod stops at once. With finalizers the object stays until they are gone; the grace period, which is zero
	// after this stage, tells that the kubelet's part is done.
	docs = append(docs, document("pod-delete", object{
		"selector": selector([]match{{`.metadata.deletionTimestamp != null`, []string{"true"}},
			{`(.metadata.deletionGracePeriodSeconds // 0) > 0`, []string{"true"}}}),
		"steps": []object{{"delete": true}},
	}))
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	for _, d := range docs {
		out.WriteString("---\n")
		if err := enc.Encode(d); err != nil {
			return nil, fmt.Errorf("cannot write the stages of pods: %w", err)
		}
	}
	return out.Bytes(), nil
}

func selector(matches []match) object {
	var exprs []object
	for _, m := range matches {
		jq := object{"key": m.expr, "operator": "DoesNotExist"}
		if m.values != nil {
			jq["operator"], jq["values"] = "In", m.values
		}
		exprs = append(exprs, object{"jq": jq})
	}
	return object{"matchExpressions": exprs}
}

func document(name string, spec object) object {
	spec["resourceRef"] = object{"apiGroup": "v1", "kind": "Pod"}
	return object{"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": object{"name": name}, "spec": spec}
}
