package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// cluster is what is known of one cluster; it is stored as cluster.json in the cluster's directory.
type cluster struct {
	Name          string   `json:"name"`
	Controllers   bool     `json:"controllers"`
	FeatureGates  string   `json:"featureGates,omitempty"`
	APIServerArgs []string `json:"apiServerArgs,omitempty"`
	// Booted is set once the cluster has been ready for use.
	Booted bool             `json:"booted"`
	Ports  map[string]int   `json:"ports"`
	Procs  map[string]*proc `json:"processes"`
	// Manifests is the digest of what was installed by `up --operator`.
	Manifests string `json:"manifests,omitempty"`
	// Operators are the replicas that are meant to run or ran, by number.
	Operators map[int]*operator `json:"operators,omitempty"`

	dirs dirs
	dir  string
	// ended holds, for the processes started by this very run, the news of their end.
	ended map[string]<-chan struct{}
}

func (d dirs) cluster(name string) string { return filepath.Join(d.state, name) }

// load reads a cluster's state; nil if there is none.
func load(d dirs, name string) (*cluster, error) {
	c := &cluster{dirs: d, dir: d.cluster(name), ended: map[string]<-chan struct{}{}}
	b, err := os.ReadFile(filepath.Join(c.dir, "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state of cluster %q: %w", name, err)
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("the state of cluster %q in %s does not parse: %w; `e2e/cluster down --name %s` removes it",
			name, c.dir, err, name)
	}
	if c.Procs == nil {
		c.Procs = map[string]*proc{}
	}
	if c.Operators == nil {
		c.Operators = map[int]*operator{}
	}
	return c, nil
}

// existing is load for the commands that need a cluster to be there.
func existing(d dirs, name string) (*cluster, error) {
	c, err := load(d, name)
	if err == nil && c == nil {
		have, _ := clusterNames(d)
		hint := "there is none yet"
		if len(have) > 0 {
			hint = "there are: " + strings.Join(have, ", ")
		}
		err = fmt.Errorf("there is no cluster %q (%s); start it by `e2e/cluster up --name %s`", name, hint, name)
	}
	return c, err
}

func (c *cluster) save() error { return writeJSON(filepath.Join(c.dir, "cluster.json"), c) }

func clusterNames(d dirs) ([]string, error) {
	entries, err := os.ReadDir(d.state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list the clusters: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// lock keeps two commands from changing one cluster at the same time.
func lock(ctx context.Context, d dirs, name string) (func(remove bool), error) {
	return lockFile(ctx, filepath.Join(d.state, name+".lock"), func() {
		progress("waiting for another command on cluster %q", name)
	})
}

func (c *cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}
func (c *cluster) pki(file string) string          { return c.path("pki", file) }
func (c *cluster) logFile(component string) string { return c.path("logs", component+".log") }
func (c *cluster) url() string {
	return "https://127.0.0.1:" + strconv.Itoa(c.Ports["kube-apiserver"])
}

// writeJSON replaces a file as a whole, so that nobody reads half of it.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return writeFile(path, append(b, '\n'), 0o644)
}

func writeFile(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	tmp := path + ".new"
	err := os.WriteFile(tmp, b, mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
