package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

func up(ctx context.Context, d dirs, o *options) error {
	unlock, err := lock(ctx, d, o.name)
	if err != nil {
		return err
	}
	gone := false
	defer func() { unlock(gone) }()
	c, err := load(d, o.name)
	if err != nil {
		return err
	}
	fresh := c == nil
	if fresh {
		c = &cluster{Name: o.name, Controllers: !o.noControllers, FeatureGates: o.featureGates,
			APIServerArgs: o.apiServerArgs, Ports: map[string]int{}, Procs: map[string]*proc{},
			Operators: map[int]*operator{}, dirs: d, dir: d.cluster(o.name), ended: map[string]<-chan struct{}{}}
	} else if err := c.sameAs(o); err != nil {
		return err
	}
	if err := c.bringUp(ctx, o, fresh); err != nil {
		interrupted := ctx.Err() != nil
		cleanErr := c.giveUp(fresh, interrupted)
		gone = fresh && cleanErr == nil
		switch {
		case interrupted && cleanErr == nil:
			return ctx.Err()
		case fresh:
			// The message names logs, which are kept elsewhere now.
			err = errors.New(strings.ReplaceAll(err.Error(), c.path("logs"), c.keptLogs()))
		}
		return errors.Join(err, cleanErr)
	}
	c.printExports(os.Stdout)
	return nil
}

// sameAs refuses options that a running cluster was not started with, instead of ignoring them.
func (c *cluster) sameAs(o *options) error {
	differ := func(option, have, want string) error {
		return fmt.Errorf("cluster %q runs with %s %q, not %q; take it down first: e2e/cluster down --name %s",
			c.Name, option, have, want, c.Name)
	}
	if o.featureGates != "" && o.featureGates != c.FeatureGates {
		return differ("--feature-gates", c.FeatureGates, o.featureGates)
	}
	if len(o.apiServerArgs) > 0 && !slices.Equal(o.apiServerArgs, c.APIServerArgs) {
		return differ("--api-server-arg", strings.Join(c.APIServerArgs, " "), o.apiServerArgs.String())
	}
	if o.noControllers && c.Controllers {
		return fmt.Errorf("cluster %q runs with its controllers; take it down first: e2e/cluster down --name %s", c.Name, c.Name)
	}
	return nil
}

func (c *cluster) bringUp(ctx context.Context, o *options, fresh bool) error {
	if fresh || !c.running(ctx) {
		if err := buildForBoot(ctx, c.dirs); err != nil {
			return err
		}
		if fresh {
			if err := c.prepare(ctx); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := c.boot(ctx); err != nil {
			return err
		}
		progress("cluster %q is ready after %.1f s", c.Name, time.Since(began).Seconds())
	}
	if o.operator {
		return c.installAndRun(ctx, o.noBuild)
	}
	// What ran and died, or did not survive a reboot, comes back; what was stopped on purpose does not.
	for _, n := range c.replicas() {
		if c.Operators[n].Wanted && !c.Procs[operatorName(n)].alive() {
			if err := c.startOperator(ctx, n, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// running is the quick look that lets a second `up` be instant.
func (c *cluster) running(ctx context.Context) bool {
	if !c.Booted {
		return false
	}
	for _, k := range c.members() {
		if p := c.Procs[k.name]; !p.alive() || p.frozen() {
			return false
		}
	}
	a, err := c.client("admin")
	return err == nil && a.answers(ctx, c.url()+"/readyz") == nil
}

// prepare makes what stays the same as long as the cluster lives: ports, certificates, kubeconfigs.
func (c *cluster) prepare(ctx context.Context) error {
	// Remains of an earlier cluster whose state was lost.
	if err := c.killOrphans(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("cannot clear %s: %w", c.dir, err)
	}
	_ = os.RemoveAll(c.keptLogs())
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("cannot make a place for the cluster: %w", err)
	}
	var names []string
	for _, k := range c.members() {
		names = append(names, k.ports...)
	}
	if err := takePorts(ctx, c.dir, c.Ports, names...); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := c.makePKI(); err != nil {
		return err
	}
	return c.writeKubeconfigs()
}

// boot starts whatever does not run, in order, and waits until the whole is fit for use.
func (c *cluster) boot(ctx context.Context) error {
	if err := c.writeConfig(); err != nil {
		return err
	}
	var rest []component
	for _, k := range c.members() {
		if p := c.Procs[k.name]; p.alive() {
			if err := p.signal(syscall.SIGCONT); err != nil {
				return err
			}
		} else {
			if err := c.start(ctx, k); err != nil {
				return err
			}
		}
		if k.needs == "kube-apiserver" {
			rest = append(rest, k)
			continue
		}
		if err := c.ready(ctx, k); err != nil {
			return err
		}
	}
	if c.Controllers && !c.Booted {
		if err := c.kubectl(ctx, nil, "apply", "--server-side", "--force-conflicts", "-f", c.path("config", "cluster.yaml")); err != nil {
			return err
		}
	}
	for _, k := range rest {
		if err := c.ready(ctx, k); err != nil {
			return err
		}
	}
	if c.Controllers {
		if err := c.awaitControllers(ctx); err != nil {
			return err
		}
	}
	c.Booted = true
	return c.save()
}

// awaitControllers waits for what the first request of a user relies on: ready nodes, and the service account that
// pods of the namespace `default` run as.
func (c *cluster) awaitControllers(ctx context.Context) error {
	a, err := c.client("admin")
	if err != nil {
		return err
	}
	for _, path := range []string{"/api/v1/namespaces/default/serviceaccounts/default",
		"/api/v1/namespaces/default/configmaps/kube-root-ca.crt"} {
		if err := c.await(ctx, "kube-controller-manager", "what a namespace is given", 30*time.Second,
			func(ctx context.Context) error { return a.get(ctx, path, nil) }); err != nil {
			return err
		}
	}
	return c.await(ctx, "kwok", "the nodes", 30*time.Second, func(ctx context.Context) error {
		var nodes struct {
			Items []struct {
				Metadata struct{ Name string }
				Spec     struct{ Taints []struct{ Key string } }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := a.get(ctx, "/api/v1/nodes", &nodes); err != nil {
			return err
		}
		for _, n := range nodes.Items {
			ready := slices.ContainsFunc(n.Status.Conditions, func(c struct{ Type, Status string }) bool {
				return c.Type == "Ready" && c.Status == "True"
			})
			if !ready || len(n.Spec.Taints) > 0 && !c.Booted {
				return fmt.Errorf("node %s is not ready yet", n.Metadata.Name)
			}
		}
		if len(nodes.Items) == 0 && !c.Booted {
			return errors.New("there are no nodes yet")
		}
		return nil
	})
}

// kubectl runs as admin. Its caches and its idea of a home stay in the cluster's directory.
func (c *cluster) kubectl(ctx context.Context, stdin io.Reader, args ...string) error {
	_, err := c.kubectlOutput(ctx, stdin, args...)
	return err
}

func (c *cluster) kubectlOutput(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.dirs.tool("kubectl"), args...)
	cmd.Env = []string{"HOME=" + c.dir, "PATH=/usr/local/bin:/usr/bin:/bin", "KUBECONFIG=" + c.kubeconfigPath("")}
	cmd.Dir, cmd.Stdin = c.dirs.repo, stdin
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("kubectl %s: %s", strings.Join(args, " "), lastLines(exit.Stderr, 12))
	}
	if err != nil {
		return nil, fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// giveUp undoes what this run started. A cluster that was there before keeps its data and what ran in it.
func (c *cluster) giveUp(fresh, interrupted bool) error {
	if fresh {
		if _, err := os.Stat(c.dir); err != nil {
			return nil // it did not get as far as to start anything
		}
		return c.remove(!interrupted)
	}
	var errs []error
	for name := range c.ended {
		errs = append(errs, c.Procs[name].kill())
	}
	return errors.Join(append(errs, c.save())...)
}

func (c *cluster) keptLogs() string { return filepath.Join(c.dirs.state, c.Name+".logs") }

// remove ends every process and deletes the cluster's directory.
func (c *cluster) remove(keepLogs bool) error {
	// Nothing is asked to end in good order: what it would put in order is deleted.
	var wg sync.WaitGroup
	var errs []error
	var mu sync.Mutex
	for _, p := range c.Procs {
		wg.Go(func() {
			if err := p.kill(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	errs = append(errs, c.killOrphans())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if keepLogs {
		_ = os.RemoveAll(c.keptLogs())
		if err := os.Rename(c.path("logs"), c.keptLogs()); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("cannot keep the logs: %w", err)
		}
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("cannot remove the state of cluster %q: %w", c.Name, err)
	}
	return releasePorts(c.dir)
}

func (c *cluster) killOrphans() error {
	var errs []error
	for _, p := range orphans(c.dir) {
		errs = append(errs, p.kill())
	}
	return errors.Join(errs...)
}

func down(d dirs, o *options) error {
	names := []string{o.name}
	if o.all {
		var err error
		if names, err = clusterNames(d); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := downOne(d, name, o.keepLogs); err != nil {
			return err
		}
	}
	// Only if it is empty.
	_ = os.Remove(d.state)
	return nil
}

func downOne(d dirs, name string, keepLogs bool) error {
	// Not to be interrupted half-way: all of it takes a second.
	ctx := context.Background()
	if _, err := os.Stat(d.cluster(name)); os.IsNotExist(err) {
		if _, err := os.Stat(d.cluster(name) + ".lock"); os.IsNotExist(err) {
			progress("there is no cluster %q", name)
			return nil
		}
	}
	unlock, err := lock(ctx, d, name)
	if err != nil {
		return err
	}
	defer unlock(true)
	c, err := load(d, name)
	if err != nil {
		progress("%v", err)
	}
	if c == nil {
		// Its processes are found by their mark.
		c = &cluster{Name: name, dirs: d, dir: d.cluster(name)}
	}
	if err := c.remove(keepLogs); err != nil {
		return err
	}
	if !keepLogs {
		_ = os.RemoveAll(c.keptLogs())
	}
	progress("cluster %q is gone", name)
	return nil
}

func (c *cluster) printExports(w io.Writer) {
	path := []string{c.dirs.bin()}
	// `kubectl approve-plan` is found by its name on the path.
	if _, err := os.Stat(filepath.Join(c.dirs.release(), "kubectl-approve_plan")); err == nil {
		path = append(path, c.dirs.release())
	}
	fmt.Fprintf(w, "export KUBECONFIG=%s PATH=%s:\"$PATH\"\n", quote(c.kubeconfigPath("")), quote(strings.Join(path, ":")))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// part is one line of the status.
type part struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Pid   int    `json:"pid,omitempty"`
	Port  int    `json:"port,omitempty"`
	URL   string `json:"url,omitempty"`
	Since string `json:"since,omitempty"`
	Log   string `json:"log"`
}

func (c *cluster) part(name string) part {
	p := c.Procs[name]
	s := part{Name: name, State: "stopped", Port: c.Ports[name], Log: c.logFile(name)}
	switch p.state() {
	case 0:
	case 'T':
		s.State = "frozen"
	default:
		s.State = "running"
	}
	if s.State != "stopped" {
		s.Pid, s.Since = p.Pid, p.Since.Format(time.RFC3339)
	}
	return s
}

func status(d dirs, o *options) error {
	if o.output != "" && o.output != "json" {
		return fmt.Errorf("status knows -o json, got -o %s", o.output)
	}
	c, err := existing(d, o.name)
	if err != nil {
		return err
	}
	var parts []part
	healthy := true
	for _, k := range c.members() {
		s := c.part(k.name)
		s.URL = k.scheme() + "://127.0.0.1:" + c.port(k.name)
		healthy = healthy && s.State == "running"
		parts = append(parts, s)
	}
	healthy = healthy && c.running(context.Background())
	for _, n := range c.replicas() {
		s := c.part(operatorName(n))
		s.URL = c.operatorURL(n)
		if c.Operators[n].Wanted && s.State != "running" {
			healthy = false
		}
		parts = append(parts, s)
	}
	if o.output == "json" {
		b, err := json.MarshalIndent(map[string]any{"name": c.Name, "ready": healthy, "kubeconfig": c.kubeconfigPath(""),
			"server": c.url(), "directory": c.dir, "processes": parts, "audit": c.logFile("audit")}, "", "  ")
		if err != nil {
			return fmt.Errorf("cannot encode the status: %w", err)
		}
		fmt.Println(string(b))
	} else {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tSTATE\tPID\tURL\tSINCE")
		for _, s := range parts {
			pid := "-"
			if s.Pid != 0 {
				pid = fmt.Sprint(s.Pid)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Name, s.State, pid, s.URL, s.Since)
		}
		_ = w.Flush()
	}
	if !healthy {
		return exitCode(3)
	}
	return nil
}

// grace is short because the API server, asked to end, waits a minute for the watches of the others to go away.
const grace = 3 * time.Second

func controlCommand(ctx context.Context, d dirs, o *options, verb, name string) error {
	k, err := findComponent(name)
	if err != nil {
		return err
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
	if !slices.ContainsFunc(c.members(), func(m component) bool { return m.name == k.name }) {
		return fmt.Errorf("cluster %q runs without controllers and has no %s", c.Name, name)
	}
	start := func() error {
		if c.Procs[name].alive() {
			return nil
		}
		if err := buildForBoot(ctx, d); err != nil {
			return err
		}
		if err := c.writeConfig(); err != nil {
			return err
		}
		if err := c.start(ctx, k); err != nil {
			return err
		}
		return c.ready(ctx, k)
	}
	switch verb {
	case "start":
		return start()
	case "stop":
		return c.Procs[name].stop(name, grace)
	case "kill":
		return c.Procs[name].kill()
	case "restart":
		if err := c.Procs[name].stop(name, grace); err != nil {
			return err
		}
		return start()
	case "freeze", "thaw":
		return c.freeze(name, verb)
	}
	return fmt.Errorf("control knows start, stop, kill, restart, freeze and thaw, got %q", verb)
}

func (c *cluster) freeze(name, verb string) error {
	p := c.Procs[name]
	if !p.alive() {
		return fmt.Errorf("%s of cluster %q does not run, so it cannot be told to %s", name, c.Name, verb)
	}
	if verb == "thaw" {
		return p.signal(syscall.SIGCONT)
	}
	return p.signal(syscall.SIGSTOP)
}

func logs(ctx context.Context, d dirs, o *options, name string) error {
	c, err := existing(d, o.name)
	if err != nil {
		return err
	}
	if name != "audit" {
		if _, err := findComponent(name); err != nil {
			return err
		}
	}
	return follow(ctx, c.logFile(name), o)
}

// follow prints a log, and with -f what is added to it until interrupted.
func follow(ctx context.Context, path string, o *options) error {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return fmt.Errorf("there is no log yet; it would be %s", path)
	}
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("cannot read the log: %w", err)
	}
	if o.tail >= 0 {
		b = []byte(lastLines(b, o.tail) + "\n")
		if o.tail == 0 {
			b = nil
		}
	}
	for {
		if _, err := os.Stdout.Write(b); err != nil || !o.follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		if b, err = io.ReadAll(f); err != nil {
			return fmt.Errorf("cannot read the log: %w", err)
		}
	}
}
