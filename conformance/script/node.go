package script

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/nodens-dns/nodens/cni/attach"
	"github.com/nodens-dns/nodens/conformance/world"
)

// pod add NAME [ns=NAMESPACE] [v6] [dns=ADDR,ADDR] [search=NAME,NAME] [silent] [plain] [annotation-KEY=VALUE]
// pod bare NAME ... (a namespace only), then pod attach|detach|check NAME
// pod delete NAME (application, DEL, namespace), pod vanish NAME (without DEL)
// pod gone NAME: fails until the kernel has destroyed the namespace; pod del NAME: deletes and waits for that
// pod settle NAME: CHECK, until it finds nothing amiss. pod addresses NAME, pod result NAME
func podVerb(l *Line) (string, error) {
	name := l.word(1)
	if name == "" {
		return "", usage("pod add|bare|attach|detach|check|settle|del|delete|vanish|gone|addresses|result NAME ...")
	}
	switch l.word(0) {
	case "add", "bare":
		spec, err := l.podSpec(name)
		if err != nil {
			return "", err
		}
		if l.word(0) == "bare" {
			_, err := l.w.BarePod(spec)
			return "", err
		}
		p, err := l.w.NewPod(spec)
		if err != nil {
			return "", err
		}
		return string(p.Result), nil
	}
	p, err := l.pod(1)
	if err != nil {
		return "", err
	}
	switch l.word(0) {
	case "attach":
		return string(p.Result), p.Attach()
	case "detach":
		return "", p.Detach()
	case "check":
		return "", p.Check()
	case "settle":
		return "", settle(l.w, p)
	case "del":
		return "", errors.Join(p.Delete(), world.Until(5*time.Second, p.Gone))
	case "delete":
		return "", p.Delete()
	case "gone":
		return "gone\n", p.Gone()
	case "vanish":
		return "", p.Vanish()
	case "addresses":
		return fmt.Sprintln(p.Addresses), nil
	case "result":
		return string(p.Result), nil
	}
	return "", usage("pod add|bare|attach|detach|check|settle|del|delete|vanish|gone|addresses|result NAME ...")
}

// settle waits until CHECK finds nothing amiss. Where ADD's time was too short to attach the kernel half,
// as on a machine that is very busy, the next pod of the node does it; so more of them come.
func settle(w *world.World, p *world.Pod) error {
	return world.Until(20*time.Second, func() error {
		err := p.Check()
		if err == nil {
			return nil
		}
		next, failed := w.NewPod(world.PodSpec{Name: "another", IPv6: p.IPv6})
		if failed != nil {
			return failed
		}
		return errors.Join(err, next.Delete())
	})
}

func (l *Line) podSpec(name string) (world.PodSpec, error) {
	spec := world.PodSpec{
		Name: name, Namespace: l.options["ns"], IPv6: l.has("v6"), Silent: l.has("silent"), Plain: l.has("plain"),
		Annotations: map[string]string{},
	}
	if dns := l.options["dns"]; dns != "" {
		for text := range strings.SplitSeq(dns, ",") {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return spec, err
			}
			spec.Nameservers = append(spec.Nameservers, addr)
		}
	}
	if search := l.options["search"]; search != "" {
		spec.Searches = strings.Split(search, ",")
	}
	if annotation := l.options["annotation"]; annotation != "" {
		k, v, _ := strings.Cut(annotation, "=")
		spec.Annotations[k] = v
	}
	return spec, nil
}

// cni status|gc: a verb of cnitool that concerns no pod.
// cni conf FILE: replaces the network's configuration list by the file, with the environment expanded.
func cniVerb(l *Line) (string, error) {
	if l.word(0) == "conf" {
		return "", l.w.WriteNetwork([]byte(l.File(l.word(1))))
	}
	return l.w.CNI(l.word(0))
}

// plugin FILE [KEY=VALUE ...]: runs the plugin by itself with the file, environment expanded, as its
// standard input and the given CNI_ variables ("command=ADD" is CNI_COMMAND=ADD).
func pluginVerb(l *Line) (string, error) {
	var env []string
	for k, v := range l.options {
		env = append(env, "CNI_"+strings.ToUpper(k)+"="+v)
	}
	return l.w.Plugin(env, l.File(l.word(0)))
}

// dnsd start [early]: with early it does not wait until every source has spoken.
// dnsd kill|term|stop|cont: sends the signal and waits for what it brings.
// dnsd relieve: another one takes over, and the first is told to end. dnsd renew: it starts another one itself.
// dnsd config KEY=YAML ...: changes its configuration file, from the world's own.
// dnsd log: all it has written. dnsd second: another one, beside the running one, until it ends.
// dnsd COMMAND ...: one of its own commands, asking the running one.
func dnsdVerb(l *Line) (string, error) {
	signals := map[string]syscall.Signal{
		"kill": syscall.SIGKILL, "term": syscall.SIGTERM, "stop": syscall.SIGSTOP, "cont": syscall.SIGCONT,
	}
	if sig, ok := signals[l.word(0)]; ok {
		return "", l.w.SignalDnsd(sig)
	}
	switch l.word(0) {
	case "start":
		return "", l.w.StartDnsd(!l.has("early"))
	case "beside":
		return besideVerb(l)
	case "knock":
		return knockVerb(l)
	case "relieve":
		return "", l.w.RelieveDnsd()
	case "renew":
		return "", l.w.RenewDnsd()
	case "log":
		return l.w.DnsdLog(), nil
	case "second":
		return l.w.SecondDnsd()
	case "config":
		change := map[string]any{}
		for _, arg := range l.args[1:] {
			key, text, _ := strings.Cut(arg, "=")
			var value any
			if err := yaml.Unmarshal([]byte(text), &value); err != nil {
				return "", fmt.Errorf("%s: %w", arg, err)
			}
			change[key] = value
		}
		return "", l.w.Configure(change)
	}
	return l.w.Dnsd(l.args...)
}

// kernel: what the kernel half knows of pods, and how many.
// kernel layout: makes its maps pass for those of another release, with another layout.
func kernelVerb(l *Line) (string, error) {
	if l.word(0) == "layout" {
		return "", l.w.OtherLayout()
	}
	rows, err := l.w.KernelPods()
	return counted(rows), err
}

// links: the node's ends of the pods' veth pairs.
func linksVerb(l *Line) (string, error) {
	names, err := l.w.Links()
	return counted(names), err
}

// files DIR: the names in a folder, hidden ones too.
func filesVerb(l *Line) (string, error) {
	entries, err := os.ReadDir(l.word(0))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return counted(names), err
}

// file PATH: the file's text.
func fileVerb(l *Line) (string, error) {
	text, err := os.ReadFile(l.word(0))
	return string(text), err
}

// attachments: the pods that are noted, and what is wrong with notes that cannot be read.
func attachmentsVerb(l *Line) (string, error) {
	list, broken := attach.List(l.w.AttachmentDir())
	var lines []string
	for _, a := range list {
		lines = append(lines, fmt.Sprintf("%s/%s %s", a.PodNamespace, a.PodName, a.Key()))
	}
	for _, err := range broken {
		lines = append(lines, "broken "+err.Error())
	}
	return counted(lines), nil
}

// truncate POD: cuts the pod's attachment file in half.
func truncateVerb(l *Line) (string, error) {
	list, _ := attach.List(l.w.AttachmentDir())
	for _, a := range list {
		if a.PodName != l.word(0) {
			continue
		}
		path := filepath.Join(l.w.AttachmentDir(), a.Key().String()+".json")
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return path + "\n", os.WriteFile(path, text[:len(text)/2], 0o600)
	}
	return "", fmt.Errorf("pod %s is not noted", l.word(0))
}

// counted is a line each, and "count N".
func counted(lines []string) string {
	return strings.Join(append(lines, fmt.Sprintf("count %d\n", len(lines))), "\n")
}

// http URL: fetches a page from the node; its status and text are the output.
func httpVerb(l *Line) (string, error) {
	status, body, err := l.w.Get(l.word(0))
	return fmt.Sprintf("status %d\n%s", status, body), err
}

// manifest FILE ...: puts files into the folder dnsd's file source watches, each by rename, with the
// environment expanded. manifest rm NAME ...: takes them away.
func manifestVerb(l *Line) (string, error) {
	dir := l.w.ManifestDir()
	if l.word(0) == "rm" {
		for _, name := range l.words[1:] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return "", err
			}
		}
		return "", nil
	}
	for _, file := range l.words {
		temp := filepath.Join(dir, "."+filepath.Base(file)+".new")
		if err := os.WriteFile(temp, []byte(l.File(file)), 0o644); err != nil {
			return "", err
		}
		if err := os.Rename(temp, filepath.Join(dir, filepath.Base(file))); err != nil {
			return "", err
		}
	}
	return "", nil
}

// ads set CASE [VARIANT]: serves what istiod said in the captured case, beside what is served already.
