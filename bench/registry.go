package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"dispatchd/internal/sim"
)

// Registry is the simulated ORCID with ORCID's own rate limit.
type Registry struct{ reg *sim.Registry }

// clientID and clientSecret are the daemon's at the simulated ORCID.
const (
	clientID     = "APP-BENCH00000000001"
	clientSecret = "bench-secret"
)

// Listen starts it with so many researchers, who are those of person, and
// returns its address.
func (r *Registry) Listen(users int, addr *string) error {
	reg, err := sim.New(sim.Options{Clients: []sim.Client{{ID: clientID, Secret: clientSecret}}})
	if err != nil {
		return fmt.Errorf("make the registry: %w", err)
	}
	reg.PauseSender(true)
	for n := range users {
		reg.AddProfile(person(n))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	r.reg = reg
	go func() { _ = sim.Serve(context.Background(), ln, reg) }() // ends with the process
	*addr = ln.Addr().String()
	return nil
}

// Asked is what the registry was asked until now.
type Asked struct {
	At         time.Time
	Registered int64 // PUTs answered 201 or 204
	Requests   int64 // of the API, by any answer
	Limited    int64 // answered 503 for being over the rate
}

// Count returns what was asked until now.
func (r *Registry) Count(_ struct{}, out *Asked) error {
	c := r.reg.Counters()
	out.At, out.Limited = time.Now(), c.Limited
	for op, byStatus := range c.Requests {
		for status, n := range byStatus {
			out.Requests += n
			if op == "put" && status/100 == 2 {
				out.Registered += n
			}
		}
	}
	return nil
}
