// Command lookup looks a name up as Go programs do, by Go's resolver or by the C library's (GODEBUG=netdns):
// it prints the addresses, one a line, or why not.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	addrs, err := net.LookupHost(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, a := range addrs {
		fmt.Println(a)
	}
}
