package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTicks is USER_HZ, which Linux has fixed at 100 for what /proc shows.
const clockTicks = 100

// parseStat reads the processor time of a process, user and system, with that
// of its children left out, from the text of /proc/PID/stat.
func parseStat(raw []byte) (time.Duration, error) {
	// The name is in parentheses and may hold anything, also parentheses.
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return 0, errors.New("stat has no name")
	}
	fields := strings.Fields(string(raw[end+1:])) // from the third field on
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the name", len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// parseStatus reads a size in kB from the text of /proc/PID/status, in bytes.
func parseStatus(raw []byte, name string) (int64, error) {
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		number, ok := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("status: %s is %q", name, strings.TrimSpace(rest))
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("status has no %s", name)
}

// process reads what the kernel knows of a running process.
type process int

func (p process) file(name string) string { return fmt.Sprintf("/proc/%d/%s", int(p), name) }

func (p process) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(p.file("stat"))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return parseStat(raw)
}

// memory returns the resident memory now and its peak since resetPeak.
func (p process) memory() (now, peak int64, err error) {
	raw, err := os.ReadFile(p.file("status"))
	if err != nil {
		return 0, 0, fmt.Errorf("read memory: %w", err)
	}
	if now, err = parseStatus(raw, "VmRSS"); err != nil {
		return 0, 0, err
	}
	peak, err = parseStatus(raw, "VmHWM")
	return now, peak, err
}

// resetPeak makes the peak of memory begin anew.
func (p process) resetPeak() error {
	if err := os.WriteFile(p.file("clear_refs"), []byte("5"), 0o600); err != nil {
		return fmt.Errorf("reset the peak of memory: %w", err)
	}
	return nil
}

// machine describes where the bench runs.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory string `json:"memory"`
	Kernel string `json:"kernel"`
}

func thisMachine(cores int) machine {
	m := machine{Cores: cores, CPU: "unknown", Memory: "unknown", Kernel: "unknown"}
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = modelName(string(raw))
	}
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		if n, err := parseStatus(raw, "MemTotal"); err == nil {
			m.Memory = fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
		}
	}
	if raw, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(raw))
	}
	return m
}

// modelName finds the name of the processor in the text of /proc/cpuinfo.
func modelName(info string) string {
	for line := range strings.Lines(info) {
		name, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// infoNumbers reads the numbers of the answer to Redis's INFO.
func infoNumbers(text string) map[string]float64 {
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = n
		}
	}
	return out
}

// commandStat is one line of INFO commandstats.
type commandStat struct {
	Name  string
	Calls float64
	Micro float64 // µs in all
}

// parseCommandStats reads INFO commandstats.
func parseCommandStats(text string) map[string]commandStat {
	out := map[string]commandStat{}
	for line := range strings.Lines(text) {
		name, values, ok := strings.Cut(strings.TrimSpace(line), ":")
		name, isStat := strings.CutPrefix(name, "cmdstat_")
		if !ok || !isStat {
			continue
		}
		s := commandStat{Name: name}
		for _, kv := range strings.Split(values, ",") {
			k, v, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				continue
			}
			switch k {
			case "calls":
				s.Calls = n
			case "usec":
				s.Micro = n
			}
		}
		out[name] = s
	}
	return out
}
