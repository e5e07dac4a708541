package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// person is somebody who speaks to the cluster by a client certificate.
type person struct {
	name   string
	groups []string
}

// people are there from the start. Nobody but admin is granted anything: that is for the manifests and the tests to do.
var people = []person{
	{"admin", []string{"system:masters"}},
	{"alice", []string{"developers"}},
	{"bob", []string{"approvers"}},
	{"carol", []string{"approvers"}},
}

var validUser = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)

// kubeconfigPath is the file for KUBECONFIG, which holds all people, or the one of a single user.
func (c *cluster) kubeconfigPath(user string) string {
	if user == "" {
		return c.path("kubeconfig")
	}
	return c.path(user + ".kubeconfig")
}

// writeKubeconfigs writes one file per person and one that holds them all, with admin as the current context.
func (c *cluster) writeKubeconfigs() error {
	ca, err := c.loadAuthority()
	if err != nil {
		return err
	}
	var all []entry
	for _, p := range people {
		if p.name != "admin" { // which was issued with the components' own
			if err := c.issue(ca, p.name, p.name, p.groups, nil); err != nil {
				return err
			}
		}
		e, err := c.certEntry(p.name)
		if err != nil {
			return err
		}
		all = append(all, e)
		if err := c.writeKubeconfig(c.kubeconfigPath(p.name), e); err != nil {
			return err
		}
	}
	for _, component := range []string{"kube-controller-manager", "kube-scheduler", "kwok"} {
		e, err := c.certEntry(component)
		if err != nil {
			return err
		}
		if err := c.writeKubeconfig(c.path("pki", component+".kubeconfig"), e); err != nil {
			return err
		}
	}
	return c.writeKubeconfig(c.kubeconfigPath(""), all...)
}

// entry is one user of a kubeconfig: a name, and the lines that prove it.
type entry struct{ name, proof string }

func (c *cluster) certEntry(name string) (entry, error) {
	crt, err1 := os.ReadFile(c.pki(name + ".crt"))
	key, err2 := os.ReadFile(c.pki(name + ".key"))
	if err := errors.Join(err1, err2); err != nil {
		return entry{}, fmt.Errorf("cannot read the certificate of %s: %w", name, err)
	}
	return entry{name, fmt.Sprintf("    client-certificate-data: %s\n    client-key-data: %s\n",
		base64.StdEncoding.EncodeToString(crt), base64.StdEncoding.EncodeToString(key))}, nil
}

// writeKubeconfig makes a file whose current context is the first entry.
func (c *cluster) writeKubeconfig(path string, entries ...entry) error {
	ca, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	name := "countersign-" + c.Name
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Config\ncurrent-context: %s\nclusters:\n- name: %s\n  cluster:\n    server: %s\n"+
		"    certificate-authority-data: %s\nusers:\n", entries[0].name, name, c.url(), base64.StdEncoding.EncodeToString(ca))
	for _, e := range entries {
		fmt.Fprintf(&b, "- name: %s\n  user:\n%s", e.name, e.proof)
	}
	b.WriteString("contexts:\n")
	for _, e := range entries {
		fmt.Fprintf(&b, "- name: %s\n  context:\n    cluster: %s\n    user: %s\n", e.name, name, e.name)
	}
	return writeFile(path, []byte(b.String()), 0o600)
}

func kubeconfigCommand(d dirs, o *options) error {
	c, err := existing(d, o.name)
	if err != nil {
		return err
	}
	if o.user != "" && !validUser.MatchString(o.user) {
		return fmt.Errorf("a user's name is lower-case letters, digits, dots, dashes and underscores; got %q", o.user)
	}
	if len(o.groups) > 0 {
		if o.user == "" {
			return errors.New("--group belongs to a user that is made; name it by --user")
		}
		if i := slices.IndexFunc(people, func(p person) bool { return p.name == o.user }); i >= 0 {
			return fmt.Errorf("%s is there from the start, in %s; take another name for one with groups of its own",
				o.user, strings.Join(people[i].groups, ", "))
		}
	}
	path := c.kubeconfigPath(o.user)
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || len(o.groups) > 0 {
		ca, err := c.loadAuthority()
		if err != nil {
			return err
		}
		if err := c.issue(ca, "user-"+o.user, o.user, o.groups, nil); err != nil {
			return err
		}
		e, err := c.certEntry("user-" + o.user)
		if err != nil {
			return err
		}
		e.name = o.user
		if err := c.writeKubeconfig(path, e); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("cannot read the kubeconfig of %s: %w", o.user, err)
	}
	if !o.raw {
		fmt.Println(path)
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read the kubeconfig: %w", err)
	}
	_, err = os.Stdout.Write(b)
	return err
}
