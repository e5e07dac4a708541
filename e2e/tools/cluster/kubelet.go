package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// kubelet answers what the API server asks a node's kubelet for, which here is logs. What a container would have
// printed is told by its image's tag, like everything else about it; an annotation puts a text of its own there.
func kubelet(ctx context.Context, d dirs, name string) error {
	c, err := existing(d, name)
	if err != nil {
		return err
	}
	a, err := c.client("kwok")
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		// Anybody on this machine can connect; only the API server may ask.
		if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "kube-apiserver-kubelet-client" {
			http.Error(w, "only the API server may ask for logs", http.StatusForbidden)
			return
		}
		if err := serveLogs(w, r, a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "the pods of this cluster run no containers, so there is no "+
			strings.SplitN(strings.Trim(r.URL.Path, "/"), "/", 2)[0]+" in them", http.StatusNotImplemented)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   &tls.Config{ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}}
	l, err := net.Listen("tcp", "127.0.0.1:"+c.port("kubelet"))
	if err != nil {
		return fmt.Errorf("cannot listen for the API server: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	err = server.ServeTLS(l, c.pki("server.crt"), c.pki("server.key"))
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot serve: %w", err)
}

// logsAnnotation holds a text to be served as the log of every container of the pod.
const logsAnnotation = "e2e.countersign.dev/logs"

//go:embed logs/*.log
var sampleLogs embed.FS

type containerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *struct{ StartedAt, FinishedAt time.Time }
}

type containerStatus struct {
	Name, Image      string
	RestartCount     int
	State, LastState containerState
}

type podObject struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		Containers, InitContainers []struct {
			Name, Image string
			Ports       []struct{ ContainerPort int }
		}
	}
	Status struct {
		ContainerStatuses, InitContainerStatuses []containerStatus
	}
}

var tagOf = regexp.MustCompile(`:(crash|oom|slow|flaky)(@.+)?$`)

func serveLogs(w http.ResponseWriter, r *http.Request, a *client) error {
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	var pod podObject
	err := a.get(r.Context(), "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(name), &pod)
	if err != nil {
		return err
	}
	var s *containerStatus
	for _, cs := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if cs.Name == container {
			s = &cs
		}
	}
	if s == nil {
		return fmt.Errorf("container %q in pod %q is not available", container, name)
	}
	q := r.URL.Query()
	previous := q.Get("previous") == "true"
	began, failed, err := s.ran(name, previous)
	if err != nil {
		return err
	}
	port := 8080
	image := s.Image
	for _, k := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if k.Name == container {
			image = k.Image
			if len(k.Ports) > 0 {
				port = k.Ports[0].ContainerPort
			}
		}
	}
	text := pod.Metadata.Annotations[logsAnnotation]
	if text == "" {
		kind := "ready"
		if m := tagOf.FindStringSubmatch(image); m != nil {
			kind = m[1]
			if kind == "flaky" && !failed {
				kind = "ready"
			}
		}
		b, err := sampleLogs.ReadFile("logs/" + kind + ".log")
		if err != nil {
			return fmt.Errorf("cannot read the sample for %q: %w", kind, err)
		}
		text = strings.NewReplacer("{container}", container, "{image}", image, "{port}", strconv.Itoa(port)).Replace(string(b))
	}
	return writeLogs(w, r, strings.Split(strings.TrimRight(text, "\n"), "\n"), began, q)
}

// ran tells when the asked-for run of a container began and whether it failed, or, in the kubelet's words, why there is
// nothing to show.
func (s *containerStatus) ran(pod string, previous bool) (time.Time, bool, error) {
	last := s.LastState.Terminated
	switch {
	case previous && last != nil:
		return last.StartedAt, true, nil
	case previous:
		return time.Time{}, false, fmt.Errorf("previous terminated container %q in pod %q not found", s.Name, pod)
	case s.State.Running != nil:
		return s.State.Running.StartedAt, false, nil
	case s.State.Terminated != nil:
		return s.State.Terminated.StartedAt, true, nil
	case last != nil:
		return last.StartedAt, true, nil
	case s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "Pull"):
		return time.Time{}, false, fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", s.Name, pod)
	case s.State.Waiting != nil:
		return time.Time{}, false, fmt.Errorf("container %q in pod %q is waiting to start: %s", s.Name, pod, s.State.Waiting.Reason)
	}
	return time.Time{}, false, fmt.Errorf("container %q in pod %q is waiting to start", s.Name, pod)
}

// writeLogs applies the options of the logs request; lines are a hundred milliseconds apart.
func writeLogs(w http.ResponseWriter, r *http.Request, lines []string, began time.Time, q url.Values) error {
	var since time.Time
	if v := q.Get("sinceTime"); v != "" {
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return fmt.Errorf("sinceTime: %w", err)
		}
		since = t
	}
	number := func(key string) (int, error) {
		v := q.Get(key)
		if v == "" {
			return -1, nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("%s is a number that is not negative, got %q", key, v)
		}
		return n, nil
	}
	seconds, err1 := number("sinceSeconds")
	tail, err2 := number("tailLines")
	limit, err3 := number("limitBytes")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	if seconds >= 0 {
		since = time.Now().Add(-time.Duration(seconds) * time.Second)
	}
	var out []string
	for i, line := range lines {
		at := began.Add(time.Duration(i) * 100 * time.Millisecond)
		if at.Before(since) {
			continue
		}
		if q.Get("timestamps") == "true" {
			line = at.UTC().Format("2006-01-02T15:04:05.000000000Z") + " " + line
		}
		out = append(out, line+"\n")
	}
	if tail >= 0 && len(out) > tail {
		out = out[len(out)-tail:]
	}
	text := strings.Join(out, "")
	if limit >= 0 && len(text) > limit {
		text = text[:limit]
	}
	w.Header().Set("Content-Type", "text/plain")
	if _, err := w.Write([]byte(text)); err != nil || q.Get("follow") != "true" {
		return nil
	}
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	// Nothing is ever added; who follows waits, as for a container that is quiet.
	<-r.Context().Done()
	return nil
}
