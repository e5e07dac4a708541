package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAProcessIsToldFromALaterOneWithItsPid(t *testing.T) {
	p, ended, err := spawn([]string{"/bin/sleep", "60"}, nil, "/", filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]proc{
		"started at another time": {Pid: p.Pid, Start: p.Start + 1, Boot: p.Boot},
		"before a reboot":         {Pid: p.Pid, Start: p.Start, Boot: "another"},
	} {
		if other.alive() {
			t.Errorf("%s, and yet taken for the same", name)
		}
		if err := other.kill(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !p.alive() {
		t.Fatal("ended by a signal for another")
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if p.alive() {
		t.Error("killed, and yet alive")
	}
	var none *proc
	if none.alive() || none.kill() != nil || none.stop("none", time.Second) != nil {
		t.Error("a process that never was cannot be ended without a complaint")
	}
}

func TestAFrozenProcessEndsWhenAsked(t *testing.T) {
	p, _, err := spawn([]string{"/bin/sleep", "60"}, nil, "/", filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Name: "x", Procs: map[string]*proc{"sleep": p}}
	if err := c.freeze("sleep", "freeze"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); !p.frozen() && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if !p.frozen() {
		t.Error("does not count as frozen")
	}
	began := time.Now()
	if err := p.stop("sleep", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if p.alive() || time.Since(began) > 5*time.Second {
		t.Error("had to be killed")
	}
}

func TestAProcessThatWasNotWrittenDownIsFound(t *testing.T) {
	dir := t.TempDir()
	p, _, err := spawn([]string{"/bin/sleep", "60"}, []string{ownerVar + "=" + dir}, "/", filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	// Between fork and exec it still has this program's environment.
	for end := time.Now().Add(5 * time.Second); len(orphans(dir)) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if len(orphans(dir+"2")) != 0 {
		t.Error("found for another cluster, too")
	}
	c := &cluster{dir: dir}
	if err := c.killOrphans(); err != nil || p.alive() {
		t.Errorf("not ended: %v", err)
	}
}

func TestARemovedLockIsNotHeldTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockFile(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan func(bool))
	go func() {
		second, err := lockFile(context.Background(), path, nil)
		if err != nil {
			t.Error(err)
		}
		held <- second
	}()
	select {
	case <-held:
		t.Fatal("held twice")
	case <-time.After(200 * time.Millisecond):
	}
	first(true)
	second := <-held
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path, nil); err == nil {
		t.Error("the lock of a file that was made anew does not hold")
	}
	second(true)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the lock was left behind")
	}
}

func TestPortsOfTwoClustersDiffer(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	a, b := t.TempDir(), t.TempDir()
	seen := map[int]string{}
	for _, dir := range []string{a, b} {
		ports := map[string]int{}
		if err := takePorts(context.Background(), dir, ports, "x", "y", "z"); err != nil {
			t.Fatal(err)
		}
		before := ports["x"]
		if err := takePorts(context.Background(), dir, ports, "x"); err != nil || ports["x"] != before {
			t.Errorf("a port changed from %d to %d: %v", before, ports["x"], err)
		}
		for name, port := range ports {
			if other, ok := seen[port]; ok {
				t.Errorf("%d is both %s and %s", port, other, dir+name)
			}
			seen[port] = dir + name
		}
	}
	if err := releasePorts(a); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(b); err != nil {
		t.Fatal(err)
	}
	if err := releasePorts(a); err != nil {
		t.Fatal(err)
	}
	file, _ := reservations()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error("the table was left behind, though no cluster is there any more")
	}
}

func TestTheStagesOfPodsAreWhatKwokReads(t *testing.T) {
	b, err := podStages()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for doc := range strings.SplitSeq(strings.TrimPrefix(string(b), "---\n"), "\n---\n") {
		var s struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Selector struct{ MatchExpressions []any }
				Steps    []any
			}
		}
		if err := json.Unmarshal([]byte(doc), &s); err != nil {
			t.Fatal(err)
		}
		if s.Kind != "Stage" || len(s.Spec.Selector.MatchExpressions) == 0 || len(s.Spec.Steps) == 0 || names[s.Metadata.Name] {
			t.Errorf("not a stage of its own: %s", doc)
		}
		names[s.Metadata.Name] = true
	}
}

func TestAShellReadsTheExports(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a $HOME")
	c := &cluster{dirs: dirs{cache: dir}, dir: dir}
	var out strings.Builder
	c.printExports(&out)
	cmd := exec.Command("bash", "-c", out.String()+`printf '%s|%s' "$KUBECONFIG" "${PATH%%:*}"`)
	got, err := cmd.Output()
	if want := dir + "/kubeconfig|" + dir + "/bin"; err != nil || string(got) != want {
		t.Errorf("want %s, got %s: %v", want, got, err)
	}
}
