package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	operatorNamespace = "countersign-system"
	operatorAccount   = "countersign"
	operatorGroup     = "countersign.dev"
)

// operator is one replica, running beside the cluster as its own service account.
type operator struct {
	// Wanted is true from start until stop or kill: what is wanted comes back by `up`.
	Wanted bool `json:"wanted"`
	// Env is kept, so that a restart is with the same.
	Env []string `json:"env,omitempty"`
	// Binary tells which build runs.
	Binary string `json:"binary,omitempty"`
}

func operatorName(n int) string { return "operator-" + strconv.Itoa(n) }

func (c *cluster) replicas() []int { return slices.Sorted(maps.Keys(c.Operators)) }

func (c *cluster) operatorURL(n int) string { return "http://127.0.0.1:" + c.port(operatorName(n)) }

func (c *cluster) operatorBinary() string { return filepath.Join(c.dirs.release(), "countersign") }

func operatorCommand(ctx context.Context, d dirs, o *options, verb string) error {
	if o.replica < 0 || o.replica > 9 {
		return fmt.Errorf("--replica is a number from 0 to 9, got %d", o.replica)
	}
	for _, e := range o.env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			return fmt.Errorf("--env takes NAME=VALUE, got %q", e)
		}
	}
	name := operatorName(o.replica)
	if verb == "logs" {
		c, err := existing(d, o.name)
		if err != nil {
			return err
		}
		return follow(ctx, c.logFile(name), o)
	}
	unlock, err := lock(ctx, d, o.name)
	if err != nil {
		return err
	}
	defer unlock(false)
	c, err := existing(d, o.name)
	if err != nil {
		return err
	}
	p := c.Procs[name]
	unwanted := func() error {
		if op := c.Operators[o.replica]; op != nil {
			op.Wanted = false
		}
		return c.save()
	}
	switch verb {
	case "start":
		if p.alive() {
			return nil
		}
		return c.startOperator(ctx, o.replica, o.env)
	case "stop":
		if err := p.stop(name, 30*time.Second); err != nil {
			return err
		}
		return unwanted()
	case "kill":
		if err := p.kill(); err != nil {
			return err
		}
		return unwanted()
	case "restart":
		if err := p.stop(name, 30*time.Second); err != nil {
			return err
		}
		return c.startOperator(ctx, o.replica, o.env)
	case "freeze", "thaw":
		return c.freeze(name, verb)
	case "url", "pid":
		if !p.alive() {
			return fmt.Errorf("replica %d of the operator does not run in cluster %q; start it by "+
				"`e2e/cluster operator start --name %s --replica %d`", o.replica, c.Name, c.Name, o.replica)
		}
		if verb == "pid" {
			fmt.Println(p.Pid)
		} else {
			fmt.Println(c.operatorURL(o.replica))
		}
		return nil
	}
	return fmt.Errorf("operator knows start, stop, kill, restart, freeze, thaw, logs, url and pid, got %q", verb)
}

// installAndRun is `up --operator`: what a user installs, and this checkout's operator on it.
func (c *cluster) installAndRun(ctx context.Context, noBuild bool) error {
	// The two take a moment each, even when there is nothing to do.
	built := make(chan error, 1)
	building, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		if noBuild {
			built <- nil
			return
		}
		built <- c.buildOperator(building)
	}()
	if err := c.install(ctx); err != nil {
		// The first build takes minutes, at the end of which this would still be so.
		cancel()
		<-built
		return err
	}
	if err := <-built; err != nil {
		return err
	}
	digest, err := fileDigest(c.operatorBinary())
	if err != nil {
		return fmt.Errorf("there is no operator to run: %w; build it by `cargo build --release`", err)
	}
	replicas := c.replicas()
	if len(replicas) == 0 {
		replicas = []int{0}
	}
	for _, n := range replicas {
		op, p := c.Operators[n], c.Procs[operatorName(n)]
		if n != 0 && !op.Wanted || p.alive() && !p.frozen() && op.Binary == digest {
			continue
		}
		if err := p.stop(operatorName(n), 30*time.Second); err != nil {
			return err
		}
		began := time.Now()
		if err := c.startOperator(ctx, n, nil); err != nil {
			return err
		}
		progress("operator is ready after %.1f s at %s", time.Since(began).Seconds(), c.operatorURL(n))
	}
	return nil
}

func (c *cluster) buildOperator(ctx context.Context) error {
	cargo, err := exec.LookPath("cargo")
	if err != nil {
		return errors.New("the operator has to be built, which takes Rust, and cargo is not on the PATH; " +
			"install Rust, or build elsewhere and use --no-build")
	}
	cmd := exec.CommandContext(ctx, cargo, "build", "--release", "--bins")
	cmd.Dir = c.dirs.repo
	cmd.Env = append(os.Environ(), "CARGO_TARGET_DIR="+c.dirs.target)
	// Standard output is for the exports alone.
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	interruptible(cmd)
	if _, err := os.Stat(c.operatorBinary()); err == nil {
		// Quiet when there is nothing to do, and the compiler's errors are still printed.
		cmd.Args = append(cmd.Args, "--quiet")
	} else {
		progress("building the operator")
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot build the operator: cargo build --release: %w", err)
	}
	return nil
}

func fileDigest(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

var isDeployment = regexp.MustCompile(`(?m)^kind: Deployment$`)

// install applies the manifests that users install, if they are not the ones that are there already.
func (c *cluster) install(ctx context.Context) error {
	dir := ""
	for _, d := range []string{"config/e2e", "config/default"} {
		if _, err := os.Stat(filepath.Join(c.dirs.repo, d, "kustomization.yaml")); err == nil {
			dir = d
			break
		}
	}
	if dir == "" {
		return errors.New("found neither config/e2e/kustomization.yaml nor config/default/kustomization.yaml to install from; " +
			"without --operator the cluster starts without them")
	}
	rendered, err := c.kubectlOutput(ctx, nil, "kustomize", dir)
	if err != nil {
		return err
	}
	// The operator runs beside the cluster. A pod of it would only be played, and look as if there were a second one.
	docs := strings.Split(string(rendered), "\n---\n")
	docs = slices.DeleteFunc(docs, isDeployment.MatchString)
	rendered = []byte(strings.Join(docs, "\n---\n"))
	sum := sha256.Sum256(rendered)
	digest := hex.EncodeToString(sum[:])
	if digest == c.Manifests && c.served(ctx) {
		return nil
	}
	began := time.Now()
	for {
		err := c.kubectl(ctx, bytes.NewReader(rendered), "apply", "--server-side", "--force-conflicts",
			"--field-manager=countersign-e2e", "-f", "-")
		if err == nil {
			break
		}
		// A kind that is defined in the same go is not served at once, and what was deleted a moment ago is in the way
		// until it is gone.
		passing := strings.Contains(err.Error(), "no matches for kind") || strings.Contains(err.Error(), "being terminated") ||
			strings.Contains(err.Error(), "being deleted")
		if !passing || time.Since(began) > 45*time.Second {
			return fmt.Errorf("cannot install %s: %w", dir, err)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	if err := c.awaitInstalled(ctx); err != nil {
		return err
	}
	progress("installed %s in %.1f s", dir, time.Since(began).Seconds())
	c.Manifests = digest
	return c.save()
}

// served is false when what was installed was taken away since, as a test of the uninstallation does.
func (c *cluster) served(ctx context.Context) bool {
	a, err := c.client("admin")
	return err == nil && a.get(ctx, "/apis/"+operatorGroup, nil) == nil &&
		a.get(ctx, "/api/v1/namespaces/"+operatorNamespace+"/serviceaccounts/"+operatorAccount, nil) == nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type conditions []struct{ Type, Status, Message string }

func (cs conditions) isTrue(kind string) bool {
	for _, c := range cs {
		if c.Type == kind {
			return c.Status == "True"
		}
	}
	return false
}

// awaitInstalled waits until the kinds are served and the admission policies are in force.
func (c *cluster) awaitInstalled(ctx context.Context) error {
	a, err := c.client("admin")
	if err != nil {
		return err
	}
	err = c.await(ctx, "kube-apiserver", "the custom resource definitions", 30*time.Second, func(ctx context.Context) error {
		var crds struct {
			Items []struct {
				Metadata struct{ Name string }
				Spec     struct{ Group string }
				Status   struct{ Conditions conditions }
			}
		}
		if err := a.get(ctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crds); err != nil {
			return err
		}
		for _, crd := range crds.Items {
			if crd.Spec.Group == operatorGroup && !crd.Status.Conditions.isTrue("Established") {
				return fmt.Errorf("%s is not established", crd.Metadata.Name)
			}
		}
		return a.get(ctx, "/apis/"+operatorGroup, nil)
	})
	if err != nil {
		return err
	}
	return c.awaitPolicies(ctx, a)
}

// awaitPolicies waits for the admission policies. The API server itself learns of a policy up to some seconds after it
// was stored, and nothing in its status tells; so it is asked, by dry runs that the policies must change or refuse.
func (c *cluster) awaitPolicies(ctx context.Context, a *client) error {
	type policies struct {
		Items []struct {
			Metadata struct {
				Name       string
				Generation int64
			}
			Status struct {
				ObservedGeneration int64
				TypeChecking       struct {
					ExpressionWarnings []struct{ FieldRef, Warning string }
				}
			}
		}
	}
	const group = "/apis/admissionregistration.k8s.io/v1/"
	var validating, mutating policies
	if err := a.get(ctx, group+"mutatingadmissionpolicies", &mutating); err != nil && !notFound(err) {
		return fmt.Errorf("cannot list the admission policies: %w", err)
	}
	check := func(ctx context.Context) error {
		validating = policies{}
		if err := a.get(ctx, group+"validatingadmissionpolicies", &validating); err != nil {
			return err
		}
		for _, p := range validating.Items {
			// The controller manager observes them.
			if c.Controllers && p.Status.ObservedGeneration < p.Metadata.Generation {
				return fmt.Errorf("%s is not observed", p.Metadata.Name)
			}
		}
		return nil
	}
	if err := c.await(ctx, "kube-apiserver", "the validating admission policies", 30*time.Second, check); err != nil {
		return err
	}
	for _, p := range validating.Items {
		for _, w := range p.Status.TypeChecking.ExpressionWarnings {
			progress("policy %s: %s: %s", p.Metadata.Name, w.FieldRef, strings.TrimSpace(w.Warning))
		}
	}
	if len(mutating.Items) > 0 {
		if err := c.seen(ctx, "the policy that stamps who asks", a, probeStamp); err != nil {
			return err
		}
	}
	if len(validating.Items) > 0 {
		return c.seen(ctx, "the policy on approvals", a, probeApproval)
	}
	return nil
}

// seen waits for a probe to show that a policy is in force. It does not insist: a policy that is written in another way
// than the probe expects is for the tests to judge, which say it better.
func (c *cluster) seen(ctx context.Context, what string, a *client, probe func(context.Context, *client) error) error {
	err := c.await(ctx, "kube-apiserver", what, 8*time.Second, func(ctx context.Context) error { return probe(ctx, a) })
	if errors.Is(err, errTooLate) {
		progress("cannot tell that %s is in force: %v", what, probe(ctx, a))
		return ctx.Err()
	}
	return err
}

// Nobody keeps plans in this namespace, which would make a difference to the answer.
const dryRunIn = "/apis/" + operatorGroup + "/v1alpha1/namespaces/kube-public/"

func probeStamp(ctx context.Context, a *client) error {
	var answer struct {
		Spec struct {
			RequestedBy struct{ Username string }
		}
	}
	err := a.do(ctx, http.MethodPost, dryRunIn+"agentcommands?dryRun=All", map[string]any{
		"apiVersion": operatorGroup + "/v1alpha1", "kind": "AgentCommand",
		"metadata": map[string]any{"generateName": "probe-"}, "spec": map[string]any{"request": "list pods"},
	}, &answer)
	if err != nil {
		return err
	}
	if answer.Spec.RequestedBy.Username == "" {
		return errors.New("a dry run of an AgentCommand came back without spec.requestedBy")
	}
	return nil
}

func probeApproval(ctx context.Context, a *client) error {
	err := a.do(ctx, http.MethodPost, dryRunIn+"planapprovals?dryRun=All", map[string]any{
		"apiVersion": operatorGroup + "/v1alpha1", "kind": "PlanApproval",
		"metadata": map[string]any{"generateName": "probe-"},
		"spec": map[string]any{"plan": "there-is-no-such-plan", "decision": "Approve",
			"digest": "sha256:" + strings.Repeat("0", 64)},
	}, nil)
	var refused *apiError
	if !errors.As(err, &refused) {
		if err == nil {
			err = errors.New("a dry run of an approval for no plan at all was let through")
		}
		return err
	}
	if strings.Contains(refused.message, "ValidatingAdmissionPolicy") {
		return nil
	}
	return err
}

// startOperator runs a replica with a fresh token of its service account and waits until it is ready.
func (c *cluster) startOperator(ctx context.Context, n int, env []string) error {
	name := operatorName(n)
	digest, err := fileDigest(c.operatorBinary())
	if err != nil {
		return fmt.Errorf("there is no operator to run: %w; build it by `cargo build --release`, or use "+
			"`e2e/cluster up --name %s --operator`, which does", err, c.Name)
	}
	if err := takePorts(ctx, c.dir, c.Ports, name); err != nil {
		return err
	}
	kubeconfig := c.path("operator", strconv.Itoa(n)+".kubeconfig")
	if err := c.operatorKubeconfig(ctx, kubeconfig); err != nil {
		return err
	}
	op := c.Operators[n]
	if op == nil {
		op = &operator{}
		c.Operators[n] = op
	}
	if len(env) > 0 {
		op.Env = env
	}
	level := os.Getenv("RUST_LOG")
	if level == "" {
		level = "info"
	}
	all := append(c.environment(), "KUBECONFIG="+kubeconfig, "POD_NAMESPACE="+operatorNamespace,
		"POD_NAME="+operatorAccount+"-"+strconv.Itoa(n), "COUNTERSIGN_LISTEN=127.0.0.1:"+c.port(name),
		"RUST_LOG="+level, "RUST_BACKTRACE=1")
	all = append(all, op.Env...)
	p, ended, err := spawn([]string{c.operatorBinary(), "run"}, all, c.dir, c.logFile(name))
	if err != nil {
		return err
	}
	c.Procs[name], c.ended[name] = p, ended
	op.Binary, op.Wanted = digest, true
	if err := c.save(); err != nil {
		return err
	}
	a := &client{http: &http.Client{Transport: &http.Transport{Proxy: nil}}}
	err = c.await(ctx, name, "the operator", 60*time.Second, func(ctx context.Context) error {
		return a.answers(ctx, c.operatorURL(n)+"/ready")
	})
	if err != nil {
		op.Wanted = false
		return errors.Join(err, p.kill(), c.save())
	}
	return nil
}

// operatorKubeconfig is made of a token for the service account and nothing else.
func (c *cluster) operatorKubeconfig(ctx context.Context, path string) error {
	a, err := c.client("admin")
	if err != nil {
		return err
	}
	var answer struct{ Status struct{ Token string } }
	err = a.do(ctx, http.MethodPost,
		"/api/v1/namespaces/"+operatorNamespace+"/serviceaccounts/"+operatorAccount+"/token",
		map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
			"spec": map[string]any{"expirationSeconds": 24 * 3600}}, &answer)
	if notFound(err) {
		return fmt.Errorf("the operator runs as the service account %s/%s, which is not there: %w; install the manifests by "+
			"`e2e/cluster up --name %s --operator`", operatorNamespace, operatorAccount, err, c.Name)
	}
	if err != nil {
		return fmt.Errorf("cannot get a token for the operator's service account: %w", err)
	}
	return c.writeKubeconfig(path, entry{operatorAccount, "    token: " + answer.Status.Token + "\n"})
}
