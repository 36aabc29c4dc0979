package script

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/world"
)

// Line is one line of a script: a verb's arguments, split into words and key=value options.
type Line struct {
	ts      *testscript.TestScript
	w       *world.World
	verbs   map[string]Verb
	args    []string // as they stand
	words   []string
	options map[string]string
}

// Verb does what a line says and returns what it has to show, which a following stdout matches.
type Verb func(l *Line) (string, error)

// builtin are the words of every script, with how they are used. conformance/README.md has them at
// length.
func builtin() map[string]Verb {
	return map[string]Verb{
		"pod": podVerb, "machine": machineVerb, "cni": cniVerb, "plugin": pluginVerb, "install": installVerb,
		"dnsd": dnsdVerb, "http": httpVerb, "kernel": kernelVerb, "links": linksVerb, "files": filesVerb, "file": fileVerb,
		"attachments": attachmentsVerb, "truncate": truncateVerb, "manifest": manifestVerb,
		"ads": adsVerb, "kube": kubeVerb, "zone": zoneVerb, "etcd": etcdVerb, "source": sourceVerb, "nginx": nginxVerb, "web": webVerb, "run": runVerb,
		"dig": digVerb, "resolve": resolveVerb, "lookup": lookupVerb, "garbage": garbageVerb,
		"clients": clientsVerb, "flood": floodVerb,
		"connect": connectVerb, "talk": talkVerb, "release": releaseVerb, "load": loadVerb,
		"eventually": eventuallyVerb, "within": withinVerb,
	}
}

// commands makes testscript commands of the verbs: output to stdout, an error to stderr and, unless the
// line begins with "!", the end of the script.
func commands(verbs map[string]Verb) map[string]func(*testscript.TestScript, bool, []string) {
	cmds := map[string]func(*testscript.TestScript, bool, []string){}
	for name, do := range verbs {
		cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			l := &Line{ts: ts, w: ts.Value(worldKey{}).(*world.World), verbs: verbs}
			out, err := do(l.with(args))
			_, _ = fmt.Fprint(ts.Stdout(), out)
			if err != nil {
				_, _ = fmt.Fprintln(ts.Stderr(), err)
			}
			switch {
			case err != nil && !neg:
				ts.Fatalf("%s: %v", name, err)
			case err == nil && neg:
				ts.Fatalf("%s: succeeded, but must fail", name)
			}
		}
	}
	return cmds
}

var option = regexp.MustCompile(`^([a-z0-9-]+)=(.*)$`)

// with is a line of the same script with other arguments.
func (l *Line) with(args []string) *Line {
	l = &Line{ts: l.ts, w: l.w, verbs: l.verbs, args: args, options: map[string]string{}}
	for _, arg := range args {
		if m := option.FindStringSubmatch(arg); m != nil {
			l.options[m[1]] = m[2]
			continue
		}
		l.words = append(l.words, arg)
	}
	return l
}

// World is the world the script plays in.
func (l *Line) World() *world.World { return l.w }

// Value is what the suite's Setup put into the script's environment under the key.
func (l *Line) Value(key any) any { return l.ts.Value(key) }

// Word returns the i-th word that is no option, or "".
func (l *Line) Word(i int) string { return l.word(i) }

// File returns the text of a file of the script, with the environment expanded. It ends the script if
// there is no such file.
func (l *Line) File(name string) string { return os.Expand(l.ts.ReadFile(name), l.ts.Getenv) }

// usage is the error of a line that cannot be understood.
func usage(text string) error { return errors.New("usage: " + text) }

// word returns the i-th word or "".
func (l *Line) word(i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

func (l *Line) has(word string) bool { return slices.Contains(l.words, word) }

func (l *Line) number(key string, otherwise int) (int, error) {
	text, ok := l.options[key]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s=%s is not a number", key, text)
	}
	return n, nil
}

func (l *Line) pod(i int) (*world.Pod, error) { return l.w.Pod(l.word(i)) }

// eventually [DURATION] REGEXP VERB ...: repeats the verb until it succeeds and its output matches.
// eventually [DURATION] ! REGEXP VERB ...: until it succeeds and its output does not match.
// eventually [DURATION] fails REGEXP VERB ...: until it fails with an error that matches.
func eventuallyVerb(l *Line) (string, error) {
	const help = "eventually [DURATION] [!|fails] REGEXP VERB ..."
	args, limit, how := l.args, 10*time.Second, ""
	if len(args) > 0 {
		if d, err := time.ParseDuration(args[0]); err == nil {
			limit, args = d, args[1:]
		}
	}
	if len(args) > 0 && (args[0] == "!" || args[0] == "fails") {
		how, args = args[0], args[1:]
	}
	if len(args) < 2 || l.verbs[args[1]] == nil {
		return "", usage(help)
	}
	want, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return "", err
	}
	var out string
	err = world.Until(limit, func() (err error) {
		out, err = l.verbs[args[1]](l.with(args[2:]))
		switch {
		case how == "fails" && err == nil:
			return fmt.Errorf("%s succeeds and says\n%s", args[1], out)
		case how == "fails":
			if !want.MatchString(err.Error()) {
				return err
			}
			return nil
		case err != nil:
			return err
		case want.MatchString(out) == (how == "!"):
			return fmt.Errorf("%s says\n%s", args[1], out)
		}
		return nil
	})
	return out, err
}

// within DURATION VERB ...: the verb must succeed, and in time. What the machine needs for any pod just
// now does not count against "pod add".
func withinVerb(l *Line) (string, error) {
	args := l.args
	if len(args) < 2 || l.verbs[args[1]] == nil {
		return "", usage("within DURATION VERB ...")
	}
	limit, err := time.ParseDuration(args[0])
	if err != nil {
		return "", err
	}
	start := time.Now()
	out, err := l.verbs[args[1]](l.with(args[2:]))
	took := time.Since(start)
	if err == nil && took > limit && args[1] == "pod" {
		any, failed := plainPod(l.w)
		took, err = took-any, failed
	}
	if err == nil && took > limit {
		return out, fmt.Errorf("%s took %v, allowed are %v", args[1], took.Round(time.Millisecond), limit)
	}
	return out, err
}

// plainPod measures how long a pod takes without nodens.
func plainPod(w *world.World) (time.Duration, error) {
	start := time.Now()
	p, err := w.NewPod(world.PodSpec{Name: "measure", Plain: true})
	if err != nil {
		return 0, err
	}
	return time.Since(start), p.Delete()
}
