# make alone prints help: every target with ## behind it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build bench chaos restarts demo test lint vet generate check-generated deps clean stage deb test-deb sbom release sign reproducible install vuln fuzz

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
COMMIT_TIME ?= $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
MODIFIED ?= $(if $(shell git status --porcelain 2>/dev/null),true)
# Not Go's own stamp of the version control: an archive without history must give the same program.
GOFLAGS_BUILD := -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.commitTime=$(COMMIT_TIME) -X main.modified=$(MODIFIED)'
LINT_VERSION := v2.15.0
TOOLS := $(CURDIR)/.tools
LINT := $(TOOLS)/golangci-lint-$(LINT_VERSION)
# Newer versions need modules that not every mirror has.
NFPM_VERSION := v2.45.2
NFPM := $(TOOLS)/nfpm-$(NFPM_VERSION)
CYCLONEDX_VERSION := v1.9.0
CYCLONEDX := $(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION)
GOVULN_VERSION := v1.1.4
GOVULN := $(TOOLS)/govulncheck-$(GOVULN_VERSION)

# A Debian version begins with a digit: v1.2.3 is 1.2.3, a commit without a tag is 0.0.0+git20261126.abc1234.
DEB_VERSION ?= $(shell echo '$(VERSION)' | sed -E 's/^v([0-9])/\1/; /^[0-9]+\./!s/^/0.0.0+git$(shell git log -1 --format=%cd --date=format:%Y%m%d 2>/dev/null)./; s/-/./g')
ARCH ?= $(shell go env GOARCH)
PREFIX ?= /usr/local
DIST ?= dist
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

build: ## build bin/dispatchd
	CGO_ENABLED=0 go build $(GOFLAGS_BUILD) -o bin/dispatchd ./daemon

demo: build ## see it work: simulated ORCID, 4 organisations, 500 researchers (needs Go only)
	bin/dispatchd demo $(DEMO)

test: deps ## run every test with the race detector (installs redis-server and chromium when it can)
	go test -race -count=1 -parallel 3 -timeout 15m ./... # most of a test's time is waiting

bench: deps ## measure the built daemon beside its baselines (under 8 minutes); writes bench/REPORT.md
	go run ./bench -write

chaos: deps ## kill real processes, 200 faults (under 10 minutes); ROUNDS=, SEED= change it
	go test ./internal/chaos -run TestOutage -chaos.outage=60s -count=1 -v
	go test ./internal/chaos -run TestChaos -chaos.rounds=$(or $(ROUNDS),200) $(if $(SEED),-chaos.seed=$(SEED)) -count=1 -timeout 15m -v

restarts: deps ## restart the daemon 50 times under 1,000 pings a second
	go test ./internal/chaos -run TestRestartUnderLoad -chaos.restarts=50 -count=1 -timeout 15m -v

stage: build
	@mkdir -p dist/stage
	sed 's,^#data_dir = ,data_dir = ,' config.toml > dist/stage/config.toml
	gzip -9n < daemon/dist/man/dispatchd.8 > dist/stage/dispatchd.8.gz
	gzip -9n < daemon/dist/man/dispatchd.toml.5 > dist/stage/dispatchd.toml.5.gz
	gzip -9n < CHANGELOG.md > dist/stage/changelog.gz

deb: stage $(NFPM) ## build dist/dispatchd_VERSION_ARCH.deb
	VERSION='$(DEB_VERSION)' ARCH=$(ARCH) $(NFPM) package -f daemon/dist/nfpm.yaml -p deb -t dist/

test-deb: deb ## install, start, upgrade and purge the package in a fresh Debian 12, boot it, follow docs/install.md (needs root, debootstrap, systemd-nspawn, a mirror)
	daemon/dist/test-deb.sh

sbom: build $(CYCLONEDX) ## write dist/dispatchd.cdx.json, what the program is made of (CycloneDX)
	@mkdir -p dist
	$(CYCLONEDX) bin -json -output dist/dispatchd.cdx.json -version '$(VERSION)' bin/dispatchd

release: ## everything of a release in dist/, with checksums; SIGN_KEY= (an SSH key) signs them
	rm -rf dist
	$(MAKE) deb sbom
	cp bin/dispatchd dist/dispatchd_linux_$(ARCH)
	cd dist && sha256sum dispatchd_* dispatchd.cdx.json > SHA256SUMS && sha256sum -c SHA256SUMS
	$(if $(SIGN_KEY),$(MAKE) sign)

sign: ## sign the checksums in dist/ with the SSH key SIGN_KEY=
	rm -f $(DIST)/SHA256SUMS.sig
	ssh-keygen -q -Y sign -f '$(SIGN_KEY)' -n dispatchd $(DIST)/SHA256SUMS

reproducible: ## build what is committed as a release does, and again from an archive of it, and compare
	daemon/dist/test-reproducible.sh

install: stage ## install program, man pages, completions and units; DESTDIR= and PREFIX= (/usr/local)
	install -Dm755 bin/dispatchd $(DESTDIR)$(PREFIX)/bin/dispatchd
	install -Dm644 dist/stage/dispatchd.8.gz $(DESTDIR)$(PREFIX)/share/man/man8/dispatchd.8.gz
	install -Dm644 dist/stage/dispatchd.toml.5.gz $(DESTDIR)$(PREFIX)/share/man/man5/dispatchd.toml.5.gz
	install -Dm644 daemon/dist/completion/dispatchd.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/dispatchd
	install -Dm644 daemon/dist/completion/_dispatchd $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_dispatchd
	install -Dm644 daemon/dist/completion/dispatchd.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/dispatchd.fish
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/dispatchd daemon/dist/alerts.yml daemon/dist/dashboard.json dist/stage/config.toml
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/dispatchd README.md SECURITY.md docs/*.md docs/*.svg docs/*.png
	install -Dm644 daemon/dist/dispatchd.socket $(DESTDIR)$(PREFIX)/lib/systemd/system/dispatchd.socket
	sed 's,/usr/bin/dispatchd,$(PREFIX)/bin/dispatchd,' daemon/dist/dispatchd.service > dist/stage/dispatchd.service
	install -Dm644 dist/stage/dispatchd.service $(DESTDIR)$(PREFIX)/lib/systemd/system/dispatchd.service

$(NFPM) $(CYCLONEDX) $(GOVULN):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= go install $(MODULE)
	@mv $(TOOLS)/$(notdir $(firstword $(subst @, ,$(MODULE)))) $@
$(NFPM): MODULE = github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
$(CYCLONEDX): MODULE = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION)
$(GOVULN): MODULE = golang.org/x/vuln/cmd/govulncheck@$(GOVULN_VERSION)

vuln: $(GOVULN) ## look for known vulnerabilities (needs vuln.go.dev)
	$(GOVULN) ./...

fuzz: ## fuzz every target for FUZZTIME (10s)
	@set -e; grep -rlE '^func Fuzz' --include=*_test.go . | while read -r f; do \
	  for t in $$(grep -oE '^func Fuzz[A-Za-z0-9_]*' $$f | cut -d' ' -f2); do \
	    echo "$$(dirname $$f) $$t"; go test $$(dirname $$f) -run '^$$' -fuzz "^$$t\$$" -fuzztime $(or $(FUZZTIME),10s); \
	  done; done

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

# What the tests start, by the name of its Debian package, which is the program's too (but for php, of php-cli,
# postgres, of postgresql, and ssh-keygen, of openssh-client).
# (policy-rc.d keeps apt from starting the services.)
NEEDED := redis-server chromium curl openssl python3 php ssh-keygen
# Linux also tests what runs it there: units, alert rules, proxies; and what reads the database of a Hub.
ifeq ($(shell uname -s),Linux)
NEEDED += systemd prometheus nginx caddy postgres
endif

sweep: deps ## register 5,000 users with 20 kills of the daemon in between, counted by an independent ORCID (about 5 minutes)
	go test ./internal/chaos -run TestSweep -chaos.sweep=5000 -count=1 -timeout 15m -v

deps: ## install what the tests need: redis-server, chromium, python3, php, on Linux also systemd, prometheus, nginx, caddy, postgresql
	@missing=""; for p in $(NEEDED); do PATH="$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" command -v $$p >/dev/null || missing="$$missing $$p"; done; \
	missing="$${missing/ php/ php-cli}"; missing="$${missing/ postgres/ postgresql}"; missing="$${missing/ ssh-keygen/ openssh-client}"; \
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
	@# Mail servers that are not ours. They must not take the place of this machine's: --no-remove.
	@if [ "$$(uname -s)" != Linux ]; then exit 0; fi; missing=""; \
	command -v msmtpd >/dev/null || missing="msmtp-mta"; \
	/usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null || missing="$$missing python3-aiosmtpd"; \
	for p in $$missing; do \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove $$p >/dev/null; then continue; fi; \
	  echo "make: $$p is missing (apt-get install $$p): the tests with that mail server are skipped (with CI set they fail)"; \
	done

clean: ## remove what was built
	rm -rf bin dist .tools
