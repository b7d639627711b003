package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// embeddedRedis is miniredis in this process, for trials and the demo.
type embeddedRedis struct {
	server *miniredis.Miniredis
	cancel context.CancelFunc
	done   chan struct{}
}

func startEmbedded() (*embeddedRedis, error) {
	server := miniredis.NewMiniRedis()
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start the embedded redis: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &embeddedRedis{server: server, cancel: cancel, done: make(chan struct{})}
	go e.tick(ctx)
	return e, nil
}

// tick lets keys with a time to live end: miniredis has no clock of its own.
func (e *embeddedRedis) tick(ctx context.Context) {
	defer close(e.done)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			e.server.FastForward(time.Second)
		}
	}
}

func (e *embeddedRedis) url() string { return "redis://" + e.server.Addr() + "/0" }

// stop ends it and says what went with it.
func (e *embeddedRedis) stop(log *slog.Logger) {
	e.cancel()
	<-e.done
	keys := len(e.server.Keys())
	e.server.Close()
	log.Warn("the embedded redis is gone, and with it everything: this was a trial", "keys_lost", keys)
}
