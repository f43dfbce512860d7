package control

import (
	"bufio"
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
	"strings"
)

// maxLine bounds one answer, in bytes: a Status with some thousand masters.
const maxLine = 1 << 20

// ErrUnknown is returned, wrapped, by Whois for an address that nobody holds
// as far as the daemon knows.
var ErrUnknown = errors.New("nobody known holds this address")

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

// Whois returns who holds addr; ErrUnknown when the daemon knows of nobody.
func (c *Client) Whois(ctx context.Context, addr netip.Addr) (Whois, error) {
	var w Whois
	err := c.get(ctx, "/v1/whois?addr="+url.QueryEscape(addr.String()), &w)
	return w, err
}

// Watch yields the status at once and again after every change until ctx
// ends, the daemon goes away or the caller stops. What ends the sequence is
// its last element, with a zero Status: ctx's error, io.EOF for a daemon that
// stopped, or what Status would return. Reconnecting is the caller's.
func (c *Client) Watch(ctx context.Context) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		body, err := c.open(ctx, "/v1/watch")
		if err != nil {
			yield(Status{}, err)
			return
		}
		defer body.Close()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			var s Status
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				yield(Status{}, fmt.Errorf("watch %s: %w", c.path, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
		err = lines.Err()
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		yield(Status{}, fmt.Errorf("watch %s: %w", c.path, err))
	}
}

// get decodes the answer to one request into v. Fields that this client does
// not know are ignored: the daemon may be newer.
func (c *Client) get(ctx context.Context, resource string, v any) error {
	body, err := c.open(ctx, resource)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxLine)).Decode(v); err != nil {
		return fmt.Errorf("read %s: %w", c.path, err)
	}
	return nil
}

// open sends one request and returns the body of a good answer.
func (c *Client) open(ctx context.Context, resource string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://overlayd"+resource, nil)
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
	why := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("ask overlayd: %s: %w", why, ErrUnknown)
	}
	return nil, fmt.Errorf("ask overlayd: %s", why)
}
