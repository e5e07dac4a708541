package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownerVar is in the environment of every process of a cluster, with the cluster's directory as its value. It finds a
// process that was started by a launcher that was killed before it could write the pid down.
const ownerVar = "COUNTERSIGN_E2E_OWNER"

// proc is one process, told from a later one with the same pid by when it started.
type proc struct {
	Pid   int       `json:"pid"`
	Start uint64    `json:"start"` // clock ticks since boot
	Boot  string    `json:"boot"`  // the ticks of another boot mean nothing
	Since time.Time `json:"since"`
}

// stat gives the state letter and the start time of a process.
func stat(pid int) (state byte, start uint64, ok bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, false
	}
	// The second field is the name in parentheses and may hold anything, so count from the last of them.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err == nil
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (p *proc) state() byte {
	if p == nil || p.Pid <= 1 || p.Boot != bootID() {
		return 0
	}
	state, start, ok := stat(p.Pid)
	if !ok || start != p.Start || state == 'X' || state == 'Z' && lastThread(p.Pid) {
		return 0
	}
	return state
}

// lastThread is false while a killed process whose first thread is gone has others, which hold its files and ports.
func lastThread(pid int) bool {
	threads, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	return err != nil || len(threads) <= 1
}

func (p *proc) alive() bool  { return p.state() != 0 }
func (p *proc) frozen() bool { return p.state() == 'T' }

// signal reaches this process or nothing: the handle is taken first, and only then is it checked whose it is.
func (p *proc) signal(sig syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	h, err := os.FindProcess(p.Pid)
	if err != nil {
		return nil
	}
	defer h.Release()
	if !p.alive() {
		return nil
	}
	if err := h.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("cannot send %s to process %d: %w", sig, p.Pid, err)
	}
	return nil
}

func (p *proc) waitGone(limit time.Duration) bool {
	for end := time.Now().Add(limit); p.alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// stop asks, waits, and insists.
func (p *proc) stop(what string, grace time.Duration) error {
	if !p.alive() {
		return nil
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	// A frozen process does not get to handle the request otherwise.
	if err := p.signal(syscall.SIGCONT); err != nil {
		return err
	}
	if p.waitGone(grace) {
		return nil
	}
	progress("%s did not end within %s of being asked to, and is killed", what, grace)
	return p.kill()
}

func (p *proc) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if !p.waitGone(10 * time.Second) {
		return fmt.Errorf("process %d does not end even by SIGKILL; look at /proc/%d/wchan", p.Pid, p.Pid)
	}
	return nil
}

// spawn starts a process in a session of its own, so that it outlives the launcher and its terminal, and holds none of
// the launcher's files open. The channel closes when it ends while this program still runs.
func spawn(argv, env []string, dir, logFile string) (*proc, <-chan struct{}, error) {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return nil, nil, fmt.Errorf("cannot make a place for the logs: %w", err)
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("cannot start %s: %w", argv[0], err)
	}
	p := &proc{Pid: cmd.Process.Pid, Boot: bootID(), Since: time.Now().UTC().Truncate(time.Second)}
	// It is this program's child and not waited for yet, so the entry is there even if it ended at once.
	_, p.Start, _ = stat(p.Pid)
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return p, ended, nil
}

// orphans finds the processes that carry the cluster's mark.
func orphans(clusterDir string) []*proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := []byte(ownerVar + "=" + clusterDir)
	var found []*proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		_, start, ok := stat(pid)
		if !ok {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			continue
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(v, mark) {
				found = append(found, &proc{Pid: pid, Start: start, Boot: bootID()})
				break
			}
		}
	}
	return found
}
