package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func run(args []string) int {
	if len(args) > 0 && args[0] == "serve" {
		return serve(args[2], os.Stderr, true)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	log, level := newLogger(f, "text", true, false)
	o := demoOptions{Users: 500, Speed: 60, Out: os.Stdout}
	if len(args) > 1 {
		o.For, _ = time.ParseDuration(args[1])
	}
	if len(args) > 2 {
		o.Terminal = true
	}
	if err := demo(ctx, o, log, level); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
