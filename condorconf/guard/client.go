package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// Ask asks the guard at a socket about the claim of the caller's own slot.
func Ask(ctx context.Context, socket string) (v Verdict, err error) {
	return v, get(ctx, socket, "/v1/claim", &v)
}

// AskView asks the guard at a socket what this machine sees of its grid.
func AskView(ctx context.Context, socket string) (v View, err error) {
	return v, get(ctx, socket, "/v1/view", &v)
}

func get(ctx context.Context, socket, resource string, v any) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://guard"+resource, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("ask the guard: %w", err)
	}
	defer response.Body.Close()
	body := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(body)
		return fmt.Errorf("ask the guard: %s", strings.TrimSpace(string(text)))
	}
	return json.NewDecoder(body).Decode(v)
}
