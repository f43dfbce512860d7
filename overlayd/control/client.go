package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of what is read, in bytes.
const (
	maxLine   = 1 << 20 // a Status with some thousand masters
	maxAnswer = 8 << 20 // some thousand peers
)

// Client asks one overlayd. It keeps no connection open between calls and
// needs no Close, so one Client survives restarts of the daemon.
type Client struct {
	path string
	http http.Client
}

// Dial returns a Client of the socket at path. Nothing is connected yet: a
// daemon that is not there is an error of the first call (errors.Is with
// fs.ErrNotExist or syscall.ECONNREFUSED; fs.ErrPermission for a caller
// outside the socket's group).
func Dial(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
	}}
}

// Status returns what the node knows about itself now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.get(ctx, "/v1/status", &s)
	return s, err
}

// Whois returns who holds addr; ErrUnknown when the daemon knows of nobody,
// ErrBarred when it had a session with the holder until it had to refuse it.
func (c *Client) Whois(ctx context.Context, addr netip.Addr) (Whois, error) {
	if !addr.IsValid() {
		return Whois{}, errors.New("whois: no address given")
	}
	return c.Find(ctx, Target{Address: addr.Unmap()})
}

// Find returns whom a target names; ErrUnknown as Whois.
func (c *Client) Find(ctx context.Context, who Target) (w Whois, err error) {
	return w, c.get(ctx, "/v1/whois"+who.query(), &w)
}

// Peers returns every node with which there is a session.
func (c *Client) Peers(ctx context.Context) (peers []Peer, err error) {
	return peers, c.get(ctx, "/v1/peers", &peers)
}

// Why returns why packets to a node go the way they go.
func (c *Client) Why(ctx context.Context, who Target) (w Why, err error) {
	return w, c.get(ctx, "/v1/why"+who.query(), &w)
}

// Ping asks a node for one sign of life. How long to wait is ctx's to say.
func (c *Client) Ping(ctx context.Context, who Target) (p Pong, err error) {
	return p, c.get(ctx, "/v1/ping"+who.query(), &p)
}

// Lookup returns the member of the ring that is nearest to key.
func (c *Client) Lookup(ctx context.Context, key Key) (f Found, err error) {
	parameter := "key="
	if key.Record != (RecordName{}) {
		parameter = "record="
	}
	return f, c.get(ctx, "/v1/lookup?"+parameter+url.QueryEscape(key.String()), &f)
}

// Get returns the records of a name, which may be none.
func (c *Client) Get(ctx context.Context, name RecordName) (records []Record, err error) {
	return records, c.get(ctx, recordsOf(name), &records)
}

// Put has the node keep a record until Withdraw or until it ends. A zero
// lifetime is the kind's own.
func (c *Client) Put(ctx context.Context, name RecordName, value []byte, lifetime time.Duration) (s Stored, err error) {
	resource := recordsOf(name)
	if lifetime != 0 {
		resource += "&lifetime_s=" + strconv.Itoa(int(lifetime/time.Second))
	}
	return s, c.do(ctx, http.MethodPut, resource, value, &s)
}

// Withdraw takes back what Put put.
func (c *Client) Withdraw(ctx context.Context, name RecordName) (s Stored, err error) {
	return s, c.do(ctx, http.MethodDelete, recordsOf(name), nil, &s)
}

// Publish gives the grid the text of a newer descriptor or revocation list.
// Only root may: fs.ErrPermission.
func (c *Client) Publish(ctx context.Context, text []byte) error {
	return c.do(ctx, http.MethodPost, "/v1/publish", text, &struct{}{})
}

// Metrics returns the counters and gauges in Prometheus's text exposition.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	body, err := c.open(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, maxLine))
}

// Crawl yields the members of the ring as the daemon comes by them. An error
// is the last element.
func (c *Client) Crawl(ctx context.Context) iter.Seq2[Crawled, error] {
	return stream[Crawled](ctx, c, "crawl", nil)
}

func recordsOf(name RecordName) string { return "/v1/records?record=" + url.QueryEscape(name.String()) }

// Watch yields the status at once and again after every change until ctx
// ends, the daemon goes away or the caller stops. What ends the sequence is
// its last element, with a zero Status: ctx's error, io.EOF for a daemon that
// stopped, or what Status would return. Reconnecting is the caller's.
func (c *Client) Watch(ctx context.Context) iter.Seq2[Status, error] {
	return stream[Status](ctx, c, "watch", io.EOF)
}

// stream yields what a resource of many lines says. Its end is the last
// element's error; end is the one for a stream that ended in order, nil: none.
func stream[T any](ctx context.Context, c *Client, verb string, end error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		body, err := c.open(ctx, http.MethodGet, "/v1/"+verb, nil)
		if err != nil {
			yield(none, err)
			return
		}
		defer body.Close()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			var v T
			if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
				yield(none, fmt.Errorf("%s %s: %w", verb, c.path, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		err = lines.Err()
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case err == nil:
			err = end
		case end != nil && errors.Is(err, io.ErrUnexpectedEOF):
			err = end // killed, which for who watches is an end like another
		}
		if err != nil {
			yield(none, fmt.Errorf("%s %s: %w", verb, c.path, err))
		}
	}
}

func (c *Client) get(ctx context.Context, resource string, v any) error {
	return c.do(ctx, http.MethodGet, resource, nil, v)
}

// do decodes the answer to one request into v. Fields that this client does
// not know are ignored: the daemon may be newer.
func (c *Client) do(ctx context.Context, method, resource string, content []byte, v any) error {
	body, err := c.open(ctx, method, resource, content)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", c.path, err)
	}
	return nil
}

// open sends one request and returns the body of a good answer.
func (c *Client) open(ctx context.Context, method, resource string, content []byte) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://overlayd"+resource, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var wrapped *url.Error // names a URL that no user knows
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("ask overlayd: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	said := AnswerError{text: strings.TrimSpace(string(text))}
	for _, s := range statuses {
		if s.status == resp.StatusCode && s.err != errRequest {
			said.err = s.err
		}
	}
	return nil, said
}

// AnswerError is an error that the daemon answered with, in its words. What it
// wraps is an error of this package, fs.ErrPermission, or nothing.
type AnswerError struct {
	text string
	err  error // of this package, or nil
}

func (e AnswerError) Error() string { return e.text }
func (e AnswerError) Unwrap() error { return e.err }
