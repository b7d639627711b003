package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// stopStack holds a named step for every resource that exists. It is the
// shutdown, and the rollback when setting up fails half-way.
type stopStack struct {
	log   *slog.Logger
	steps []stopStep
}

type stopStep struct {
	name string
	stop func(ctx context.Context) error
}

// push adds a step; the last one pushed runs first.
func (s *stopStack) push(name string, stop func(ctx context.Context) error) {
	s.steps = append(s.steps, stopStep{name, stop})
}

// run runs every step once, last in first out, also when one fails.
func (s *stopStack) run(ctx context.Context) error {
	var errs []error
	for len(s.steps) > 0 {
		step := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		began := time.Now()
		if err := step.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", step.name, err))
		}
		s.log.Debug("stopped", "part", step.name, "took", time.Since(began).Round(time.Millisecond))
	}
	return errors.Join(errs...)
}
