// Command cluster runs a real Kubernetes control plane on this machine without containers: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, and kwok playing three nodes. The launcher e2e/cluster builds and starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const usage = `A real Kubernetes control plane on this machine, without containers.

usage: e2e/cluster COMMAND [--name NAME] [OPTIONS]

  up          start the cluster, or what is missing of it, wait until it is ready, and print
              the exports for a shell:  eval "$(e2e/cluster up)"
      --operator              also install the manifests and run this checkout's operator
      --no-build              with --operator: run the release binary that is there
      --feature-gates K=V,... for the API server, the controller manager and the scheduler
      --api-server-arg ARG    one more argument for the API server (repeatable)
      --no-controllers        only etcd and the API server: no controllers, no nodes
  down        end every process of the cluster and remove its state
      --all                   every cluster of this checkout
      --keep-logs             keep the logs beside the state that is removed
  status      what runs, where (-o json)
  build       build the binaries ahead of time
      --only NAME,...         some of: %s
  operator    start | stop | kill | restart | freeze | thaw | logs | url | pid
      --replica R             which one, of several side by side (0)
      --env K=V               for its environment (repeatable; kept over a restart)
      -f, --tail N            for logs
  control     start | stop | kill | restart | freeze | thaw COMPONENT
  logs        COMPONENT [-f] [--tail N]   also: audit
  kubeconfig  print the path of a kubeconfig
      --user USER             one that speaks as USER; made if it is not there yet
      --group GROUP           for a new user (repeatable)
      --raw                   print what is in it instead

components: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kwok
users:      admin (system:masters), alice (developers), bob and carol (approvers);
            the cluster itself grants nobody but admin anything

environment:
  COUNTERSIGN_E2E_CACHE  the built binaries (target/e2e); may be shared between checkouts
  COUNTERSIGN_E2E_STATE  the state of the clusters (target/e2e/clusters)
  CARGO_TARGET_DIR       where the operator is built, as for cargo itself
  GO                     the go command, if it is not on the PATH
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "e2e/cluster: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "e2e/cluster: %v\n", err)
		os.Exit(1)
	}
}

// exitCode ends the program without a message, when all has been said.
type exitCode int

func (c exitCode) Error() string { return "exit " + strconv.Itoa(int(c)) }

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// options are the flags of all commands; each command registers those it knows.
type options struct {
	name          string
	operator      bool
	noBuild       bool
	noControllers bool
	featureGates  string
	apiServerArgs list
	all           bool
	keepLogs      bool
	output        string
	only          string
	replica       int
	env           list
	follow        bool
	tail          int
	user          string
	groups        list
	raw           bool
}

func run(ctx context.Context, args []string) error {
	help := func(w io.Writer) { fmt.Fprintf(w, usage, strings.Join(toolNames(), ", ")) }
	if len(args) == 0 {
		help(os.Stderr)
		return exitCode(2)
	}
	if slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		help(os.Stdout)
		return nil
	}
	command, o := args[0], &options{}
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.name, "name", "default", "")
	known := true
	switch command {
	case "up":
		fs.BoolVar(&o.operator, "operator", false, "")
		fs.BoolVar(&o.noBuild, "no-build", false, "")
		fs.BoolVar(&o.noControllers, "no-controllers", false, "")
		fs.StringVar(&o.featureGates, "feature-gates", "", "")
		fs.Var(&o.apiServerArgs, "api-server-arg", "")
	case "down":
		fs.BoolVar(&o.all, "all", false, "")
		fs.BoolVar(&o.keepLogs, "keep-logs", false, "")
	case "status":
		fs.StringVar(&o.output, "o", "", "")
		fs.StringVar(&o.output, "output", "", "")
	case "build":
		fs.StringVar(&o.only, "only", "", "")
	case "operator":
		fs.IntVar(&o.replica, "replica", 0, "")
		fs.Var(&o.env, "env", "")
		fs.BoolVar(&o.follow, "f", false, "")
		fs.IntVar(&o.tail, "tail", -1, "")
	case "control":
	case "logs":
		fs.BoolVar(&o.follow, "f", false, "")
		fs.IntVar(&o.tail, "tail", -1, "")
	case "kubeconfig":
		fs.StringVar(&o.user, "user", "", "")
		fs.Var(&o.groups, "group", "")
		fs.BoolVar(&o.raw, "raw", false, "")
	case "kubelet":
		// Not in the help: this is how the cluster starts its own stand-in for the kubelet.
	default:
		known = false
	}
	if !known {
		return fmt.Errorf("there is no command %q; `e2e/cluster --help` lists them", command)
	}
	words, err := parse(fs, args[1:])
	if errors.Is(err, flag.ErrHelp) {
		help(os.Stdout)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w; `e2e/cluster --help` lists the options", command, err)
	}
	want := map[string]int{"operator": 1, "control": 2, "logs": 1}[command]
	if len(words) != want {
		return fmt.Errorf("%s takes %d argument(s), got %d: %q; see `e2e/cluster --help`", command, want, len(words), words)
	}
	if !validName.MatchString(o.name) {
		return fmt.Errorf("a cluster's name is lower-case letters, digits and dashes, at most 40 of them; got %q", o.name)
	}
	dirs, err := findDirs()
	if err != nil {
		return err
	}
	switch command {
	case "up":
		return up(ctx, dirs, o)
	case "down":
		return down(dirs, o)
	case "status":
		return status(dirs, o)
	case "build":
		return build(ctx, dirs, o.only)
	case "operator":
		return operatorCommand(ctx, dirs, o, words[0])
	case "control":
		return controlCommand(ctx, dirs, o, words[0], words[1])
	case "logs":
		return logs(ctx, dirs, o, words[0])
	case "kubeconfig":
		return kubeconfigCommand(dirs, o)
	default:
		return kubelet(ctx, dirs, o.name)
	}
}

// parse lets flags and words come in any order, which the standard library does not.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var words []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 {
			return words, nil
		}
		words, args = append(words, args[0]), args[1:]
	}
}
