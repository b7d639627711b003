// Package chaos holds no code but tests: they run the real dispatchd binary, a
// real Redis and recording receivers as processes of their own, kill, freeze,
// empty and fill them, and hold what was acknowledged against what arrived.
//
// In `make test` it runs a short version. `make chaos` runs hundreds of faults:
//
//	go test ./internal/chaos -run TestChaos -chaos.rounds=200 -timeout 15m -v
//
// Everything listens on 127.0.0.1 only, and every process ends with the test.
package chaos
