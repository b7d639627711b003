package store

import (
	"context"
	"errors"
	"testing"
)

// What a flush did is told to who asked for it, even if its context ended
// meanwhile: a claim whose answer is thrown away lies until its lease ends.
func TestAResultIsPreferredToTheEndOfTheContext(t *testing.T) {
	t.Parallel()
	for range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		m := &merger[int, int]{max: 4, parallel: 1, flush: func(_ context.Context, batch []int) ([]int, []error) {
			cancel()
			return batch, make([]error, len(batch))
		}}
		if r, err := m.Do(ctx, 7); r != 7 || err != nil {
			t.Fatalf("got %d, %v", r, err)
		}
		m.wait()
	}
}

// A panic in a flush is the caller's; nobody else waits for ever because of it,
// neither in the same batch nor after it.
func TestAPanicInAFlushStopsNobodyElse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	broken, entered, goOn := true, make(chan bool), make(chan bool)
	m := &merger[int, int]{max: 2, parallel: 1, flush: func(_ context.Context, batch []int) ([]int, []error) {
		if batch[0] == 0 {
			entered <- true
			<-goOn
		}
		if broken && batch[0] != 0 {
			broken = false
			panic("flush")
		}
		return batch, make([]error, len(batch))
	}}
	caught := func(q int) (err error) {
		defer func() {
			if recover() != nil {
				err = errors.New("panicked")
			}
		}()
		_, err = m.Do(ctx, q)
		return err
	}
	if err := caught(1); err == nil || broken {
		t.Fatal("the caller does not see the panic")
	}
	m.wait() // its place was given back
	results := make(chan error, 3)
	go func() { results <- caught(0) }()
	<-entered
	go func() { results <- caught(2) }()
	go func() { results <- caught(3) }()
	goOn <- true
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	m.wait()
}
