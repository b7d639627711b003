package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"dispatchd/internal/hubapi"
	"dispatchd/internal/unsubscribe"
	"dispatchd/internal/web"
)

// The limits of the web listener. Behind a TLS proxy its clients are few and
// near; the limits are for whoever reaches it otherwise. A handler that takes a
// long upload moves its own deadlines.
const (
	webHeaderTimeout = 10 * time.Second
	webReadTimeout   = 30 * time.Second
	webWriteTimeout  = 60 * time.Second // a test event may take delivery.timeout before its page is written
	webIdleTimeout   = 75 * time.Second // longer than proxies keep their connections
	webMaxHeader     = 16 << 10
	webConnections   = 1024
	webGrace         = 3 * time.Second
)

// webMux joins the faces that share [listen].web. Each has its own paths and
// its own way to know who asks; a new one is one line here.
func (a *app) webMux() (http.Handler, error) {
	mux := http.NewServeMux()
	pages, err := web.New(web.Options{
		Service: a.service, Secure: strings.HasPrefix(a.config.Load().WebURL, "https://"), Mail: func() bool { return a.mail.Load() != nil },
		Logger: a.log, Version: a.o.Version,
	})
	if err != nil {
		return nil, err
	}
	mux.Handle("/", pages.Handler())
	leave, err := unsubscribe.New(unsubscribe.Options{Service: a.service, Logger: a.log, Version: a.o.Version})
	if err != nil {
		return nil, err
	}
	mux.Handle("/u/", leave.Handler())
	hub, err := hubapi.New(hubapi.Options{Service: a.service, Logger: a.log, Panics: a.metrics.panicked, Location: a.callbackLocation})
	if err != nil {
		return nil, err
	}
	return hub.Or(mux), nil // before the mux, which would tidy the URLs in its paths
}

// setWeb prepares the listener of people and organisations.
func (a *app) setWeb() error {
	mux, err := a.webMux()
	if err != nil {
		return fmt.Errorf("prepare the web listener: %w", err)
	}
	log := a.log.With("component", "web listener")
	base, cancel := context.WithCancel(context.Background())
	a.web = &http.Server{
		Handler:           a.surviving(mux),
		ReadHeaderTimeout: webHeaderTimeout, ReadTimeout: webReadTimeout, WriteTimeout: webWriteTimeout, IdleTimeout: webIdleTimeout,
		MaxHeaderBytes: webMaxHeader,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return base },
	}
	a.stop.push("web listener", func(ctx context.Context) error {
		defer cancel()
		grace, end := context.WithTimeout(ctx, webGrace)
		defer end()
		if a.web.Shutdown(grace) == nil {
			return nil
		}
		return a.web.Close() // whoever still waits is cut off, which every change survives
	})
	return nil
}

// serveWeb answers until the server is shut down.
func (a *app) serveWeb() error {
	if err := a.web.Serve(netutil.LimitListener(a.o.Web, webConnections)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the web listener: %w", err)
	}
	return nil
}

// surviving lets a panic end its request only, and be counted.
func (a *app) surviving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			a.metrics.panicked("web")
			// The path may be a signed link, so only its beginning is told.
			a.log.Error("a request panicked", "component", "web listener", "method", r.Method, "path", firstPart(r.URL.Path),
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			http.Error(w, "Something went wrong inside dispatchd. The log has the details.", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

// firstPart is a path without what may be secret in it.
func firstPart(path string) string {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			return path[:i] + "/…"
		}
	}
	return path
}
