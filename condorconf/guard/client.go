package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"gridappliance/condorconf/pool"
)

// Ask asks the guard at a socket about the claim of the caller's own slot.
func Ask(ctx context.Context, socket string, c pool.Claim) (v Verdict, err error) {
	text, err := json.Marshal(c)
	if err != nil {
		return v, err
	}
	return v, request(ctx, socket, http.MethodPost, "/v1/claim", text, &v)
}

// AskView asks the guard at a socket what this machine sees of its grid.
func AskView(ctx context.Context, socket string) (v View, err error) {
	return v, request(ctx, socket, http.MethodGet, "/v1/view", nil, &v)
}

func request(ctx context.Context, socket, method, resource string, content []byte, v any) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}}}
	r, err := http.NewRequestWithContext(ctx, method, "http://guard"+resource, bytes.NewReader(content))
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the guard: %w", err)
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxRequest)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(body)
		return fmt.Errorf("ask the guard: %s", strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(body).Decode(v)
}
