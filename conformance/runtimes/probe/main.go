// Command probe is all that is in the containers: it waits, or says what it sees from in there.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := run(ctx, append(os.Args[1:], "pause", "", "")); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// run does one thing: pause, lookup NAME, connect HOST PORT, file PATH.
func run(ctx context.Context, args []string) error {
	switch args[0] {
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return nil
	case "lookup":
		addrs, err := net.DefaultResolver.LookupHost(ctx, args[1])
		fmt.Println(strings.Join(addrs, " "))
		return err
	case "connect":
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(args[1], args[2]))
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(c, "hello"); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		fmt.Println("peer", c.RemoteAddr(), "server", strings.TrimSpace(line))
		return err
	case "file":
		text, err := os.ReadFile(args[1])
		fmt.Print(string(text))
		return err
	}
	return errors.New("usage: probe [pause | lookup NAME | connect HOST PORT | file PATH]")
}
