// Command pod is what runs in the pods of the test cluster: a server, a nameserver, a client, and a client
// that never stops asking.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pod:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0: // the container that holds a pod's namespaces
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
		<-stop
		return nil
	case args[0] == "serve" && len(args) == 2:
		return serve(args[1])
	case args[0] == "dns":
		return nameserver(":53")
	case args[0] == "lookup" && len(args) == 2:
		addrs, err := net.LookupHost(args[1])
		fmt.Println(strings.Join(addrs, " "))
		return err
	case args[0] == "dial" && len(args) == 2:
		text, err := dial(args[1])
		fmt.Println(text)
		return err
	case args[0] == "load" && len(args) == 4:
		return load(args[1], args[2], args[3])
	case args[0] == "look":
		text, err := dial(countsAddress)
		fmt.Println(text)
		return err
	}
	return errors.New("usage: pod [serve ADDRESS|dns|lookup NAME|dial HOST:PORT|load NAME ADDRESS HOST:PORT|look]")
}

// serve tells whoever connects which pod this is.
func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return tell(address, func() string { return name })
}

// tell sends text to whoever connects.
func tell(address string, text func() string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.WriteString(c, text())
			_ = c.Close()
		}()
	}
}

// dial returns what a server tells.
func dial(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c)
	return string(text), err
}
