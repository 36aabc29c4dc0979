package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// Client asks a running dnsd over its admin socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the dnsd that listens on socket. It connects when asked.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DisableKeepAlives: true, // one question, one answer; nothing to close afterwards
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Status returns the one-screen summary.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/status", nil)
}

// Names returns the rows of the answer table whose name contains filter; empty means all.
func (c *Client) Names(ctx context.Context, filter string) ([]NameRow, error) {
	return get[[]NameRow](ctx, c, "/names", url.Values{"filter": {filter}})
}

// Clusters returns the clusters with their endpoints.
func (c *Client) Clusters(ctx context.Context) ([]ClusterRow, error) {
	return get[[]ClusterRow](ctx, c, "/clusters", nil)
}

// Pods returns the pods of this node.
func (c *Client) Pods(ctx context.Context) ([]PodRow, error) {
	return get[[]PodRow](ctx, c, "/pods", nil)
}

// Explain returns, step by step, what a query for name from pod ("namespace/name") meets.
func (c *Client) Explain(ctx context.Context, name, pod string) ([]string, error) {
	return get[[]string](ctx, c, "/explain", url.Values{"name": {name}, "pod": {pod}})
}

// Queries calls show with each query of pod ("namespace/name"; empty means all pods) as it is answered, or
// with one in every so many of them, until ctx is done, which is no error, or show returns an error.
func (c *Client) Queries(ctx context.Context, pod string, every int, show func(Query) error) error {
	body, err := c.open(ctx, "/queries", url.Values{"pod": {pod}, "every": {strconv.Itoa(every)}})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	for lines := json.NewDecoder(body); ; {
		var q Query
		switch err := lines.Decode(&q); {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return errors.New("dnsd has stopped")
		case err != nil:
			return fmt.Errorf("read the queries dnsd shows: %w", err)
		}
		if err := show(q); err != nil {
			return err
		}
	}
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var v T
	body, err := c.open(ctx, path, query)
	if err != nil {
		return v, err
	}
	defer func() { _ = body.Close() }()
	if err := json.NewDecoder(body).Decode(&v); err != nil {
		return v, fmt.Errorf("read the answer of dnsd to %s: %w", path, err)
	}
	return v, nil
}

// open asks for a page; the caller closes what it says.
func (c *Client) open(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "dnsd", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no dnsd answers on %s: is it running, and with this runDir?", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s is for root and its group only: use sudo", c.socket)
	case err != nil:
		return nil, fmt.Errorf("ask dnsd on %s: %w", c.socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	_ = resp.Body.Close()
	return nil, errors.New(strings.TrimSpace(string(reason)))
}
