package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// dirs are the places that everything else is found from.
type dirs struct {
	repo   string // the checkout
	cache  string // built binaries, may be shared between checkouts
	state  string // one directory per cluster
	target string // cargo's
}

func (d dirs) bin() string          { return filepath.Join(d.cache, "bin") }
func (d dirs) tool(n string) string { return filepath.Join(d.bin(), n) }
func (d dirs) release() string      { return filepath.Join(d.target, "release") }

func findDirs() (dirs, error) {
	repo := os.Getenv("COUNTERSIGN_E2E_REPO")
	if repo == "" {
		return dirs{}, errors.New("COUNTERSIGN_E2E_REPO is not set; start this program by e2e/cluster, which sets it")
	}
	d := dirs{repo: repo}
	var err error
	pick := func(otherwise string, vars ...string) string {
		for _, v := range vars {
			if p := os.Getenv(v); p != "" {
				abs, e := filepath.Abs(p)
				err = errors.Join(err, e)
				return abs
			}
		}
		return otherwise
	}
	d.cache = pick(filepath.Join(repo, "target", "e2e"), "COUNTERSIGN_E2E_CACHE")
	d.state = pick(filepath.Join(repo, "target", "e2e", "clusters"), "COUNTERSIGN_E2E_STATE")
	d.target = pick(filepath.Join(repo, "target"), "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR")
	if err != nil {
		return dirs{}, fmt.Errorf("cannot make a path absolute: %w", err)
	}
	return d, nil
}
