package main

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// countsAddress is where a load tells what came of it so far.
const countsAddress = "127.0.0.1:9000"

// count is what came of one kind of asking.
type count struct {
	kind       string
	good, bad  int
	lastFailed error
}

func (c *count) String() string {
	text := fmt.Sprintf("%s good=%d bad=%d", c.kind, c.good, c.bad)
	if c.lastFailed != nil {
		text += " last: " + strings.ReplaceAll(c.lastFailed.Error(), "\n", " ")
	}
	return text
}

// load asks the first nameserver for name, which is to have the address want, and connects to target, over
// and over and without a second try, in every way that a daemon which changes hands could fail: by a
// socket for each question, by one connected socket and by one TCP connection for all of them.
func load(name, want, target string) error {
	server, err := firstNameserver()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var counts []*count
	over := func(kind string, try func() error) {
		c := &count{kind: kind}
		counts = append(counts, c)
		go func() {
			for {
				err := try()
				mu.Lock()
				if err != nil {
					c.bad, c.lastFailed = c.bad+1, err
				} else {
					c.good++
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	over("fresh", func() error {
		c, err := net.Dial("udp", server)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return ask(c, name, want)
	})
	for _, kind := range []string{"udp", "tcp"} {
		c, err := net.Dial(kind, server)
		if err != nil {
			return err
		}
		over("one-"+kind, func() error { return ask(c, name, want) })
	}
	over("connect", func() error {
		_, err := dial(target)
		return err
	})
	return tell(countsAddress, func() string {
		mu.Lock()
		defer mu.Unlock()
		var lines []string
		for _, c := range counts {
			lines = append(lines, c.String())
		}
		return strings.Join(lines, "\n")
	})
}
