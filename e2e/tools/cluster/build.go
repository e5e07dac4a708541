package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// tool is one binary, built from the module under e2e/tools that pins its version.
type tool struct {
	name   string
	module string
	pkg    string
	flags  string // for the linker
	needed need
	files  string // of the module, to be copied beside the binary
}

// need tells who asks for a tool: every `up`, every `build`, or only a `build --only` that names it.
type need int

const (
	forBoot need = iota
	forTests
	byName
)

// A client refuses a server whose version it cannot parse, and an unstamped build says v0.0.0-master.
const kubernetesVersion = "v1.36.3"

func kubernetesFlags() string {
	var b strings.Builder
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&b, " -X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=36 -X %s.gitTreeState=clean",
			pkg, kubernetesVersion, pkg, pkg, pkg)
	}
	return b.String()
}

func tools() []tool {
	k := kubernetesFlags()
	return []tool{
		{"etcd", "etcd", "go.etcd.io/etcd/server/v3", "", forBoot, ""},
		{"kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", k, forBoot, ""},
		{"kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", k, forBoot, ""},
		{"kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", k, forBoot, ""},
		{"kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", k, forBoot, ""},
		{"kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "", forBoot, ""},
		{"kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "", forTests, ""},
		{"helm", "helm", "helm.sh/helm/v4/cmd/helm", "", forTests, ""},
		// Large, and of use to one kind of test only.
		{"source-controller", "source-controller", "github.com/fluxcd/source-controller", "", byName, "config/crd/bases/*.yaml"},
		{"kustomize-controller", "kustomize-controller", "github.com/fluxcd/kustomize-controller", "", byName, "config/crd/bases/*.yaml"},
	}
}

func toolNames() []string {
	var names []string
	for _, t := range tools() {
		names = append(names, t.name)
	}
	return names
}

// stamp is what a binary was built from. The module files pin every source by its checksum.
func (t tool) stamp(d dirs) (string, error) {
	h := sha256.New()
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(d.repo, "e2e", "tools", t.module, f))
		if err != nil {
			return "", fmt.Errorf("cannot read what %s is built from: %w", t.name, err)
		}
		h.Write(b)
		h.Write([]byte{0})
	}
	fmt.Fprintf(h, "%s\x00%s", t.pkg, t.flags)
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (t tool) stampFile(d dirs) string { return filepath.Join(d.cache, "stamps", t.name) }

func (t tool) fresh(d dirs) (bool, error) {
	want, err := t.stamp(d)
	if err != nil {
		return false, err
	}
	have, err := os.ReadFile(t.stampFile(d))
	if err != nil || string(have) != want {
		return false, nil
	}
	_, err = os.Stat(d.tool(t.name))
	return err == nil, nil
}

// build makes the named tools ("" for all that the tests need) if they are not there or were built from something else.
func build(ctx context.Context, d dirs, only string) error {
	wanted := slices.DeleteFunc(tools(), func(t tool) bool { return t.needed == byName })
	if only != "" {
		wanted = nil
		for n := range strings.SplitSeq(only, ",") {
			i := slices.IndexFunc(tools(), func(t tool) bool { return t.name == strings.TrimSpace(n) })
			if i < 0 {
				return fmt.Errorf("there is no tool %q to build; there are %s", n, strings.Join(toolNames(), ", "))
			}
			wanted = append(wanted, tools()[i])
		}
	}
	return buildTools(ctx, d, wanted)
}

func buildForBoot(ctx context.Context, d dirs) error {
	return buildTools(ctx, d, slices.DeleteFunc(tools(), func(t tool) bool { return t.needed != forBoot }))
}

func stale(d dirs, wanted []tool) ([]tool, error) {
	var out []tool
	for _, t := range wanted {
		ok, err := t.fresh(d)
		if err != nil {
			return nil, err
		}
		if !ok {
			out = append(out, t)
		}
	}
	return out, nil
}

func buildTools(ctx context.Context, d dirs, wanted []tool) error {
	missing, err := stale(d, wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	// Two clusters that start at once on an empty cache would otherwise build everything twice.
	unlock, err := lockFile(ctx, filepath.Join(d.cache, "build.lock"), func() {
		progress("waiting for another build into %s", d.cache)
	})
	if err != nil {
		return err
	}
	defer unlock(false)
	missing, err = stale(d, wanted)
	if err != nil || len(missing) == 0 {
		return err
	}
	goCmd, err := findGo()
	if err != nil {
		return err
	}
	for _, dir := range []string{d.bin(), filepath.Join(d.cache, "stamps")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make a place for the binaries: %w", err)
		}
	}
	began := time.Now()
	for i, t := range missing {
		if err := t.build(ctx, d, goCmd, fmt.Sprintf("%d/%d", i+1, len(missing)), began); err != nil {
			return err
		}
	}
	progress("built %d in %s", len(missing), since(began))
	return nil
}

func (t tool) build(ctx context.Context, d dirs, goCmd, nth string, began time.Time) error {
	stamp, err := t.stamp(d)
	if err != nil {
		return err
	}
	progress("building %s (%s, %s so far)", t.name, nth, since(began))
	// Renamed into place when it is whole: somebody may be running the one that is there.
	tmp := filepath.Join(d.bin(), "."+t.name+".new")
	cmd := exec.CommandContext(ctx, goCmd, "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w"+t.flags, "-o", tmp, t.pkg)
	cmd.Dir = filepath.Join(d.repo, "e2e", "tools", t.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOTOOLCHAIN=local", "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	interruptible(cmd)
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(30 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				progress("still building %s (%s, %s so far)", t.name, nth, since(began))
			}
		}
	}()
	err = cmd.Run()
	close(done)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("cannot build %s in e2e/tools/%s: %w\n%s", t.name, t.module, err, lastLines(out.Bytes(), 20))
	}
	if err := os.Rename(tmp, d.tool(t.name)); err != nil {
		return fmt.Errorf("cannot put %s in place: %w", t.name, err)
	}
	if err := t.copyFiles(ctx, d, goCmd); err != nil {
		return err
	}
	if err := os.WriteFile(t.stampFile(d), []byte(stamp), 0o644); err != nil {
		return fmt.Errorf("cannot note what %s was built from: %w", t.name, err)
	}
	return nil
}

// copyFiles takes what belongs to a program but is not in it, such as the definitions of the kinds that it serves.
func (t tool) copyFiles(ctx context.Context, d dirs, goCmd string) error {
	if t.files == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, goCmd, "list", "-m", "-f", "{{.Dir}}", t.pkg)
	cmd.Dir = filepath.Join(d.repo, "e2e", "tools", t.module)
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cannot find the sources of %s: %w", t.name, err)
	}
	found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), t.files))
	if err != nil || len(found) == 0 {
		return fmt.Errorf("found no %s in the sources of %s: %v", t.files, t.name, err)
	}
	for _, f := range found {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("cannot read a file of %s: %w", t.name, err)
		}
		if err := writeFile(filepath.Join(d.cache, "share", t.name, filepath.Base(f)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func findGo() (string, error) {
	goCmd := os.Getenv("GO")
	if goCmd == "" {
		goCmd = "go"
	}
	path, err := exec.LookPath(goCmd)
	if err != nil {
		return "", fmt.Errorf("the binaries have to be built, which takes Go 1.26 or newer, and %q is not on the PATH; "+
			"install Go or set GO to its command", goCmd)
	}
	return path, nil
}

// interruptible makes that a build ends with all of its compilers when the context does. They are a process group of
// their own, since a signal to the one that was started would leave the others behind.
func interruptible(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "e2e/cluster: "+format+"\n", args...)
}

func since(t time.Time) string { return time.Since(t).Round(time.Second).String() }

func lastLines(b []byte, n int) string {
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
