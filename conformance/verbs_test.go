package conformance_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodens-dns/nodens/conformance/world"
)

// line is one line of a script: a verb's arguments, split into words and key=value options.
type line struct {
	ts      *testscript.TestScript
	w       *world.World
	args    []string // as they stand
	words   []string
	options map[string]string
}

// verb does what a line says and returns what it has to show, which a following stdout matches.
type verb func(l *line) (string, error)

// verbs are the words of the scripts, with how they are used. README.md has them at length.
var verbs map[string]verb

func init() {
	verbs = map[string]verb{
		"pod": podVerb, "cni": cniVerb, "plugin": pluginVerb,
		"dnsd": dnsdVerb, "http": httpVerb, "kernel": kernelVerb, "links": linksVerb, "files": filesVerb, "file": fileVerb,
		"attachments": attachmentsVerb, "truncate": truncateVerb, "manifest": manifestVerb,
		"ads": adsVerb, "zone": zoneVerb,
		"dig": digVerb, "resolve": resolveVerb, "lookup": lookupVerb, "garbage": garbageVerb,
		"connect": connectVerb, "talk": talkVerb, "release": releaseVerb, "load": loadVerb,
		"eventually": eventuallyVerb, "within": withinVerb,
	}
}

// commands makes testscript commands of the verbs: output to stdout, an error to stderr and, unless the
// line begins with "!", the end of the script.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	cmds := map[string]func(*testscript.TestScript, bool, []string){}
	for name, do := range verbs {
		cmds[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			out, err := do(newLine(ts, args))
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

func newLine(ts *testscript.TestScript, args []string) *line {
	l := &line{ts: ts, w: worldOf(ts), args: args, options: map[string]string{}}
	for _, arg := range args {
		if m := option.FindStringSubmatch(arg); m != nil {
			l.options[m[1]] = m[2]
			continue
		}
		l.words = append(l.words, arg)
	}
	return l
}

// usage is the error of a line that cannot be understood.
func usage(text string) error { return errors.New("usage: " + text) }

// word returns the i-th word or "".
func (l *line) word(i int) string {
	if i < len(l.words) {
		return l.words[i]
	}
	return ""
}

func (l *line) has(word string) bool { return slices.Contains(l.words, word) }

func (l *line) number(key string, otherwise int) (int, error) {
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

func (l *line) pod(i int) (*world.Pod, error) { return l.w.Pod(l.word(i)) }

// eventually [DURATION] REGEXP VERB ...: repeats the verb until it succeeds and its output matches.
// eventually [DURATION] ! REGEXP VERB ...: until it succeeds and its output does not match.
// eventually [DURATION] fails REGEXP VERB ...: until it fails with an error that matches.
func eventuallyVerb(l *line) (string, error) {
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
	if len(args) < 2 || verbs[args[1]] == nil {
		return "", usage(help)
	}
	want, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return "", err
	}
	var out string
	err = world.Until(limit, func() (err error) {
		out, err = verbs[args[1]](newLine(l.ts, args[2:]))
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
func withinVerb(l *line) (string, error) {
	args := l.args
	if len(args) < 2 || verbs[args[1]] == nil {
		return "", usage("within DURATION VERB ...")
	}
	limit, err := time.ParseDuration(args[0])
	if err != nil {
		return "", err
	}
	start := time.Now()
	out, err := verbs[args[1]](newLine(l.ts, args[2:]))
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
