# make alone prints help: every target with ## behind it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build bench chaos restarts demo test lint vet generate check-generated deps clean

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS_BUILD := -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
LINT_VERSION := v2.15.0
TOOLS := $(CURDIR)/.tools
LINT := $(TOOLS)/golangci-lint-$(LINT_VERSION)

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

build: ## build bin/dispatchd
	CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o bin/dispatchd ./daemon

demo: build ## see it work: simulated ORCID, 4 organisations, 500 researchers (needs Go only)
	bin/dispatchd demo $(DEMO)

test: deps ## run every test with the race detector (installs redis-server and chromium when it can)
	go test -race -count=1 -timeout 10m ./...

bench: deps ## measure the built daemon beside its baselines (under 8 minutes); writes bench/REPORT.md
	go run ./bench -write

chaos: deps ## kill real processes, 200 faults (under 10 minutes); ROUNDS=, SEED= change it
	go test ./internal/chaos -run TestOutage -chaos.outage=60s -count=1 -v
	go test ./internal/chaos -run TestChaos -chaos.rounds=$(or $(ROUNDS),200) $(if $(SEED),-chaos.seed=$(SEED)) -count=1 -timeout 15m -v

restarts: deps ## restart the daemon 50 times under 1,000 pings a second
	go test ./internal/chaos -run TestRestartUnderLoad -chaos.restarts=50 -count=1 -timeout 15m -v

vet: ## go vet, and that go.mod is tidy
	go vet ./...
	go mod tidy -diff

lint: $(LINT) ## golangci-lint (installed into .tools at its pinned version)
	$(LINT) run ./...

$(LINT):
	@echo "installing golangci-lint $(LINT_VERSION) into .tools (once, takes a few minutes)"
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv $(TOOLS)/golangci-lint $@

generate: ## write generated files anew (config.toml)
	go generate ./...

check-generated: generate ## fail when a generated file was not committed
	git diff --exit-code

# What the tests start, by the name of its Debian package, which is the program's too (but for php, of php-cli).
# (policy-rc.d keeps apt from starting the services.)
NEEDED := redis-server chromium curl openssl python3 php
# Linux also tests what runs it there: units, alert rules, proxies.
ifeq ($(shell uname -s),Linux)
NEEDED += systemd prometheus nginx caddy
endif

sweep: deps ## register 5,000 users with 20 kills of the daemon in between, counted by an independent ORCID (about 5 minutes)
	go test ./internal/chaos -run TestSweep -chaos.sweep=5000 -count=1 -timeout 15m -v

deps: ## install what the tests need: redis-server, chromium, python3, php, on Linux also systemd, prometheus, nginx, caddy
	@missing=""; for p in $(NEEDED); do PATH="$$PATH:/usr/sbin" command -v $$p >/dev/null || missing="$$missing $$p"; done; \
	missing="$${missing/ php/ php-cli}"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "make:$$missing missing; installing with apt-get"; \
	  if [ ! -e /usr/sbin/policy-rc.d ]; then \
	    trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
	    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
	  fi; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
	  echo "make:$$missing missing (redis-server 7 or newer). Install it, for example:"; \
	  echo "    sudo apt-get install$$missing      (Debian, Ubuntu)"; \
	  echo "    brew install redis; brew install --cask chromium      (macOS)"; \
	  exit 1; \
	fi

clean: ## remove what was built
	rm -rf bin .tools
