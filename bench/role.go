package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"time"
)

// A role is what a child process of the bench does: send pings, receive
// webhooks, or be a baseline. The same program plays it, as a process of its
// own, and takes orders over its standard input.
var errUnknownRole = errors.New("unknown role")

// play serves a role's methods until the parent closes the pipe.
func play(role string) error {
	var service any
	switch role {
	case "sender":
		service = &Sender{}
	case "receiver":
		service = newReceiver()
	case "server204":
		service = &BareServer{}
	case "poster":
		service = &Poster{}
	case "pipeliner":
		service = &Pipeliner{}
	case "orcid":
		service = &Registry{}
	default:
		return fmt.Errorf("%w %q", errUnknownRole, role)
	}
	s := rpc.NewServer()
	if err := s.RegisterName("Role", service); err != nil {
		return fmt.Errorf("play %s: %w", role, err)
	}
	s.ServeConn(pipe{os.Stdin, os.Stdout})
	return nil
}

// pipe is a connection made of two files.
type pipe struct {
	io.ReadCloser
	w io.WriteCloser
}

// Write implements io.Writer.
func (p pipe) Write(b []byte) (int, error) { return p.w.Write(b) }

// Close implements io.Closer.
func (p pipe) Close() error { return errors.Join(p.w.Close(), p.ReadCloser.Close()) }

// child is a role in its own process.
type child struct {
	role string
	cmd  *exec.Cmd
	rpc  *rpc.Client
}

// startChild starts a role; the context's end kills it.
func startChild(ctx context.Context, role string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, "-role", role) //nolint:gosec // this program
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = dieWithParent()
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	return &child{role, cmd, rpc.NewClient(pipe{out, in})}, nil
}

// call calls a method of the role and waits for the answer or ctx.
func (c *child) call(ctx context.Context, method string, in, out any) error {
	done := c.rpc.Go("Role."+method, in, out, make(chan *rpc.Call, 1)).Done
	select {
	case r := <-done:
		if r.Error != nil {
			return fmt.Errorf("%s: %s: %w", c.role, method, r.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", c.role, method, context.Cause(ctx))
	}
}

// stop ends the process by closing its input.
func (c *child) stop() {
	_ = c.rpc.Close() // it ends itself
	ended := make(chan struct{})
	go func() {
		_ = c.cmd.Wait() // how it ended says nothing
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		_ = c.cmd.Process.Kill()
		<-ended
	}
}
