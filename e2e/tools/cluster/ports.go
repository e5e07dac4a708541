package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// Ports are picked below the range that the kernel hands out for outgoing connections, so that none of those takes the
// port of a component that is stopped for a while.
const firstPort, lastPort = 20000, 31999

// reservations says which port belongs to which cluster of this user, in any checkout, running or not.
func reservations() (file, lock string) {
	base := filepath.Join(os.TempDir(), "countersign-e2e-"+strconv.Itoa(os.Getuid()))
	return base + ".ports", base + ".lock"
}

// editReservations hands the table, without the clusters that are gone, to edit, and stores what edit made of it.
func editReservations(ctx context.Context, edit func(map[int]string) error) error {
	file, lock := reservations()
	unlock, err := lockFile(ctx, lock, nil)
	if err != nil {
		return err
	}
	empty := false
	defer func() { unlock(empty) }()
	table := map[int]string{}
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read which ports are taken: %w", err)
	}
	// A table that does not parse was cut short by a full disk or a power cut; the bind test below still holds.
	_ = json.Unmarshal(bytes.TrimSpace(b), &table)
	for port, dir := range table {
		if _, err := os.Stat(dir); err != nil {
			delete(table, port)
		}
	}
	if err := edit(table); err != nil {
		return err
	}
	if len(table) == 0 {
		empty = true
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the table of ports: %w", err)
		}
		return nil
	}
	return writeJSON(file, table)
}

// takePorts adds a free port to ports for each of the names that has none.
func takePorts(ctx context.Context, dir string, ports map[string]int, names ...string) error {
	return editReservations(ctx, func(table map[int]string) error {
		for _, name := range names {
			if ports[name] != 0 {
				table[ports[name]] = dir
				continue
			}
			port, err := freePort(table)
			if err != nil {
				return err
			}
			ports[name], table[port] = port, dir
		}
		return nil
	})
}

func freePort(taken map[int]string) (int, error) {
	for range 500 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if _, ok := taken[port]; ok {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = l.Close()
		return port, nil
	}
	return 0, fmt.Errorf("found no free port between %d and %d on 127.0.0.1 in 500 tries; end what listens there",
		firstPort, lastPort)
}

func releasePorts(dir string) error {
	return editReservations(context.Background(), func(table map[int]string) error {
		for port, d := range table {
			if d == dir {
				delete(table, port)
			}
		}
		return nil
	})
}
