package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// client speaks to the API server as the holder of one of the cluster's certificates.
type client struct {
	base string
	http *http.Client
}

// apiError is the API server's own word on why a request failed.
type apiError struct {
	code    int
	message string
}

func (e *apiError) Error() string { return e.message }

func notFound(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.code == http.StatusNotFound
}

func (c *cluster) tlsConfig(pair string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.pki(pair+".crt"), c.pki(pair+".key"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate of %s: %w", pair, err)
	}
	pem, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's authority: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func (c *cluster) client(pair string) (*client, error) {
	t, err := c.tlsConfig(pair)
	if err != nil {
		return nil, err
	}
	// The components are on the loopback; a proxy of the environment has no business there.
	return &client{c.url(), &http.Client{Timeout: 10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, Proxy: nil}}}, nil
}

// do sends body, if there is one, and decodes the answer into out, if there is one.
func (a *client) do(ctx context.Context, method, path string, body, out any) error {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("cannot encode a request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, r)
	if err != nil {
		return fmt.Errorf("cannot make a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		var s struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(b, &s) != nil || s.Message == "" {
			s.Message = fmt.Sprintf("%s: %s", resp.Status, lastLines(b, 3))
		}
		return &apiError{resp.StatusCode, s.Message}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer to %s %s does not parse: %w", method, path, err)
	}
	return nil
}

func (a *client) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, nil, out)
}

// answers tells whether an address says 200.
func (a *client) answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, lastLines(b, 3))
	}
	return nil
}
