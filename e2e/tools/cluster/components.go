package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// manifests are kwok's stages for nodes, services and volumes, and the objects that a new cluster starts with.
//
//go:embed kwok/*.yaml audit-policy.yaml
var manifests embed.FS

// component is one process of the control plane.
type component struct {
	name   string
	ports  []string
	needs  string // that must answer first
	health string // where it answers when it is ready, after its address
	limit  time.Duration
	argv   func(c *cluster) []string
}

func (c *cluster) port(name string) string { return strconv.Itoa(c.Ports[name]) }

func (k component) scheme() string {
	if k.name == "etcd" || k.name == "kwok" {
		return "http"
	}
	return "https"
}

// components are in the order in which they start.
var components = []component{
	{name: "etcd", ports: []string{"etcd", "etcd-peer"}, health: "/health", limit: 20 * time.Second,
		argv: func(c *cluster) []string {
			client, peer := "http://127.0.0.1:"+c.port("etcd"), "http://127.0.0.1:"+c.port("etcd-peer")
			return []string{c.dirs.tool("etcd"), "--name=etcd", "--data-dir=" + c.path("etcd"), "--log-level=warn",
				"--listen-client-urls=" + client, "--advertise-client-urls=" + client, "--listen-peer-urls=" + peer,
				"--initial-advertise-peer-urls=" + peer, "--initial-cluster=etcd=" + peer,
				// The data is thrown away with the cluster; waiting for the disk is most of what a test would wait for.
				"--unsafe-no-fsync=true"}
		}},
	{name: "kube-apiserver", ports: []string{"kube-apiserver"}, needs: "etcd", health: "/readyz", limit: 60 * time.Second,
		argv: func(c *cluster) []string {
			argv := []string{c.dirs.tool("kube-apiserver"),
				"--etcd-servers=http://127.0.0.1:" + c.port("etcd"),
				"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + c.port("kube-apiserver"),
				// The endpoints of the service `kubernetes` must not be on the loopback, where this one is.
				"--endpoint-reconciler-type=none",
				"--service-cluster-ip-range=10.96.0.0/16",
				"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
				"--client-ca-file=" + c.pki("ca.crt"),
				"--tls-cert-file=" + c.pki("server.crt"), "--tls-private-key-file=" + c.pki("server.key"),
				"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
				"--service-account-key-file=" + c.pki("sa.key"), "--service-account-signing-key-file=" + c.pki("sa.key"),
				"--kubelet-certificate-authority=" + c.pki("ca.crt"),
				"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"),
				"--kubelet-client-key=" + c.pki("kubelet-client.key"),
				"--kubelet-preferred-address-types=InternalIP",
				"--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
				"--requestheader-allowed-names=front-proxy-client",
				"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
				"--requestheader-extra-headers-prefix=X-Remote-Extra-",
				"--proxy-client-cert-file=" + c.pki("front-proxy-client.crt"),
				"--proxy-client-key-file=" + c.pki("front-proxy-client.key"),
				"--audit-policy-file=" + c.path("config", "audit-policy.yaml"),
				"--audit-log-path=" + c.logFile("audit"), "--audit-log-maxsize=500", "--audit-log-maxbackup=10",
				"--profiling=false"}
			if c.FeatureGates != "" {
				argv = append(argv, "--feature-gates="+c.FeatureGates)
			}
			return append(argv, c.APIServerArgs...)
		}},
	{name: "kube-controller-manager", ports: []string{"kube-controller-manager"}, needs: "kube-apiserver",
		health: "/healthz", limit: 60 * time.Second,
		argv: func(c *cluster) []string {
			return append(c.controllerArgv("kube-controller-manager"),
				"--controllers=*", "--use-service-account-credentials=true",
				"--root-ca-file="+c.pki("ca.crt"), "--service-account-private-key-file="+c.pki("sa.key"),
				"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"),
				"--service-cluster-ip-range=10.96.0.0/16", "--cluster-cidr=10.244.0.0/16", "--allocate-node-cidrs=false",
				"--kube-api-qps=200", "--kube-api-burst=400",
				// The default is a directory of the machine, which it would make.
				"--flex-volume-plugin-dir="+c.path("config", "flexvolume"))
		}},
	{name: "kube-scheduler", ports: []string{"kube-scheduler"}, needs: "kube-apiserver", health: "/healthz",
		limit: 60 * time.Second,
		argv: func(c *cluster) []string {
			return append(c.controllerArgv("kube-scheduler"), "--kube-api-qps=200", "--kube-api-burst=400")
		}},
	{name: "kubelet", ports: []string{"kubelet"}, needs: "kube-apiserver", health: "/healthz", limit: 10 * time.Second,
		argv: func(c *cluster) []string {
			return []string{self(), "kubelet", "--name", c.Name}
		}},
	{name: "kwok", ports: []string{"kwok"}, needs: "kube-apiserver", health: "/healthz", limit: 30 * time.Second,
		argv: func(c *cluster) []string {
			argv := []string{c.dirs.tool("kwok"), "--kubeconfig=" + c.path("pki", "kwok.kubeconfig"),
				"--manage-all-nodes=true", "--node-ip=127.0.0.1", "--node-port=" + c.port("kubelet"),
				"--server-address=127.0.0.1:" + c.port("kwok"), "--node-lease-duration-seconds=40",
				"--cidr=10.244.0.0/20"}
			for _, f := range kwokConfigs {
				argv = append(argv, "--config="+c.path("config", f))
			}
			return argv
		}},
}

var kwokConfigs = []string{"kwok.yaml", "nodes.yaml", "pods.yaml", "services.yaml", "volumes.yaml"}

// controllerArgv is what the controller manager and the scheduler have in common.
func (c *cluster) controllerArgv(name string) []string {
	kubeconfig := c.path("pki", name+".kubeconfig")
	argv := []string{c.dirs.tool(name), "--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig, "--bind-address=127.0.0.1", "--secure-port=" + c.port(name),
		"--tls-cert-file=" + c.pki("server.crt"), "--tls-private-key-file=" + c.pki("server.key"),
		"--client-ca-file=" + c.pki("ca.crt"), "--requestheader-client-ca-file=" + c.pki("front-proxy-ca.crt"),
		// There is only one of each, and a lease left by a killed one would hold up the next for fifteen seconds.
		"--leader-elect=false", "--profiling=false"}
	if c.FeatureGates != "" {
		argv = append(argv, "--feature-gates="+c.FeatureGates)
	}
	return argv
}

func findComponent(name string) (component, error) {
	var names []string
	for _, k := range components {
		if k.name == name {
			return k, nil
		}
		names = append(names, k.name)
	}
	return component{}, fmt.Errorf("there is no component %q; there are %s", name, strings.Join(names, ", "))
}

// members are the components that this cluster has.
func (c *cluster) members() []component {
	if c.Controllers {
		return components
	}
	return slices.DeleteFunc(slices.Clone(components), func(k component) bool {
		return k.name != "etcd" && k.name != "kube-apiserver"
	})
}

func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// environment is all that a component gets to see: nothing of the user's, and a home inside of the cluster's directory,
// so that no one's kubeconfig is read or written by mistake.
func (c *cluster) environment() []string {
	return []string{"HOME=" + c.dir, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", ownerVar + "=" + c.dir,
		"COUNTERSIGN_E2E_REPO=" + c.dirs.repo, "COUNTERSIGN_E2E_CACHE=" + c.dirs.cache,
		"COUNTERSIGN_E2E_STATE=" + c.dirs.state}
}

// writeConfig writes the files that the components read at their start, as this checkout has them.
func (c *cluster) writeConfig() error {
	for from, to := range map[string]string{"audit-policy.yaml": "audit-policy.yaml", "kwok/kwok.yaml": "kwok.yaml",
		"kwok/nodes.yaml": "nodes.yaml", "kwok/services.yaml": "services.yaml", "kwok/volumes.yaml": "volumes.yaml",
		"kwok/cluster.yaml": "cluster.yaml"} {
		b, err := manifests.ReadFile(from)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", from, err)
		}
		if err := writeFile(c.path("config", to), b, 0o644); err != nil {
			return err
		}
	}
	b, err := podStages()
	if err != nil {
		return err
	}
	return writeFile(c.path("config", "pods.yaml"), b, 0o644)
}

// start runs a component and writes down its pid before anything else.
func (c *cluster) start(ctx context.Context, k component) error {
	if err := takePorts(ctx, c.dir, c.Ports, k.ports...); err != nil {
		return err
	}
	p, ended, err := spawn(k.argv(c), c.environment(), c.dir, c.logFile(k.name))
	if err != nil {
		return err
	}
	c.Procs[k.name], c.ended[k.name] = p, ended
	return c.save()
}

// ready waits until a component answers.
func (c *cluster) ready(ctx context.Context, k component) error {
	a, err := c.client("admin")
	if err != nil {
		return err
	}
	url := k.scheme() + "://" + "127.0.0.1:" + c.port(k.name) + k.health
	return c.await(ctx, k.name, k.name, k.limit, func(ctx context.Context) error { return a.answers(ctx, url) })
}

// await polls until check is content. What it waits for is work of the process called who, which must not end.
func (c *cluster) await(ctx context.Context, who, what string, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTooLate)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		// What the deadline cut short says less than what was heard before.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !c.Procs[who].alive() {
			return fmt.Errorf("%s ended before it was ready; its last lines:\n%s", who, c.tail(who))
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) != errTooLate {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %s not ready after %s: %v; the last lines of %s:\n%s", errTooLate, what, limit, last, who, c.tail(who))
		case <-c.ended[who]:
		case <-time.After(25 * time.Millisecond):
		}
	}
}

var errTooLate = errors.New("gave up waiting")

// tail is what a component said last.
func (c *cluster) tail(name string) string {
	b, err := os.ReadFile(c.logFile(name))
	if err != nil || len(b) == 0 {
		return "  (it said nothing)"
	}
	return "  " + strings.ReplaceAll(lastLines(b, 12), "\n", "\n  ") + "\n  all of it: " + filepath.Clean(c.logFile(name))
}
