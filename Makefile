# The grid appliance. `make help` prints every target.

SHELL    := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CACHE    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/grid-appliance
PROGRAMS := builder firstboot firstboot/initrd overlayd condorconf grid
BIN      := bin
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)

# REQUIRE=root,tools,netns,container,base,vm makes a test that would skip for
# want of one of these fail instead (internal/need). CI names them all.
REQUIRE  ?=
# FUZZTIME is how long make fuzz gives each fuzz target.
FUZZTIME ?= 3s
# TESTFLAGS go to go test, for example TESTFLAGS=-run=TestVM.
TESTFLAGS ?=

# $(GO) is found or fetched when a recipe first uses it, not when make starts.
GO = $(or $(GO_FOUND),$(eval GO_FOUND := $(shell make/go-toolchain $(CACHE)))$(GO_FOUND),$(error no Go toolchain, see the message above))
export GOTOOLCHAIN := local
# Equal sources make equal programs: no paths, no version control stamp.
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -buildid='

# What each step installs when it is missing (Debian and Ubuntu names).
PACKAGES_BASE := ca-certificates debian-archive-keyring mmdebstrap uidmap
PACKAGES_BOOT := qemu-system-x86 seabios ovmf
PACKAGES_TEST := gcc libc6-dev git qemu-utils ethtool gdisk dosfstools mtools e2fsprogs squashfs-tools genisoimage xorriso \
	cpio openssl openssh-client procps iproute2 iputils-ping iperf3 avahi-daemon openssh-server nftables util-linux systemd systemd-container \
	libvirt-clients libxml2-utils bind9-dnsutils gpg gpgv gpg-agent miniupnpd miniupnpd-nftables

.DEFAULT_GOAL := help
.PHONY: help appliance test programs base deb join leave demo check cross unit fuzz sim test-long bench-image bench-overlay nat joining vm-grid update clean

help: ## print this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done

appliance: base demo ## the grid demo/, bootable images of its master under out/, and how to boot them
	@make/install $(PACKAGES_BOOT)
	@$(BIN)/builder build --floppy demo/master-1.img --name demo-master-1 --target raw,qcow2 -o out
	@$(BIN)/builder build --no-floppy --name grid-appliance --target qcow2 -o out
	@sed -e 's/^/  /' make/how-to-boot.txt

programs: ## the commands, under bin/
	@mkdir -p $(BIN)
	@$(GOBUILD) -o $(BIN)/ $(addprefix ./,$(PROGRAMS))

base: programs ## the Debian system all images share, in the cache; slow once
	@make/install $(PACKAGES_BASE)
	@$(BIN)/builder base build

deb: programs ## the Debian package grid-appliance, under out/: a node without a virtual machine
	@make/package $(BIN) out

# FLOPPY is the floppy that make join takes.
FLOPPY ?=
join: deb ## FLOPPY=alice.img: this Debian machine becomes a node of the floppy's grid
	@make/join "$$(make/package --name out)" "$(FLOPPY)"

leave: ## this machine is as it was before make join
	@make/leave

demo: programs ## a grid to try, in demo/
	@[ -e demo/grid.dsc ] || $(BIN)/builder grid new demo --masters 1
	@[ -e demo/worker.img ] || $(BIN)/builder floppy new --grid demo --role worker --group demo --user researcher -o demo/worker.img
	@[ -e demo/client.img ] || $(BIN)/builder floppy new --grid demo --role client --group demo --user researcher -o demo/client.img
	@[ -e demo/standalone.img ] || $(BIN)/builder floppy new --role standalone -o demo/standalone.img

# Checks and fuzzing come first, so that the last lines are the test runner's.
# firstboot's and builder's tests, which boot machines and wait for them, and
# overlayd's, which measure, have the processors to themselves: simulations beside
# them would starve the machines. overlayd's run programs that are built without -race,
# and the simulations have one goroutine: -race, which makes them eight times as slow,
# finds nothing there, so one of them shows that it changes nothing.
ALONE       := ./builder ./firstboot ./overlayd
SIMULATIONS := ./overlayd/lease ./overlayd/ring ./overlayd/sim/scenario
TEST = $(SUDO) env "PATH=$(dir $(GO)):$$PATH" "HOME=$$HOME" GOTOOLCHAIN=local REQUIRE=$(REQUIRE) \
	GRID_BASE="$$($(BIN)/builder base path)" GRID_PROGRAMS=$(CURDIR)/$(BIN) $(GO) test -race -timeout 60m $(TESTFLAGS)
test: base check fuzz ## install what tests need, run them all
	@make/install $(PACKAGES_BOOT) $(PACKAGES_TEST)
	@$(TEST) $$($(GO) list ./... | grep -vxF "$$($(GO) list $(ALONE) $(SIMULATIONS))")
	@$(subst -race,,$(TEST)) $(SIMULATIONS)
	@$(TEST) -run='^TestReplay$$' ./overlayd/sim/scenario
	@$(TEST) ./firstboot
	@$(subst -race,,$(TEST)) ./overlayd
	@$(TEST) ./builder

check: cross ## gofmt, go vet, staticcheck, go.mod as it should be, builder for Windows and macOS
	@make/install gcc libc6-dev
	@out=$$($$(dirname $(GO))/gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	@$(GO) vet ./...
	@$(GO) tool staticcheck ./...
	@$(GO) mod tidy -diff

# Where an administrator sits: builder makes floppies and images there too.
cross: ## compile builder for Windows and macOS, amd64 and arm64
	@for os in windows darwin; do for arch in amd64 arm64; do \
		GOOS=$$os GOARCH=$$arch CGO_ENABLED=0 $(GO) build -o /dev/null ./builder || { echo "cross: $$os/$$arch does not compile"; exit 1; }; done; done

vm-grid: base ## one grid of the real image's machines, under QEMU: docs/one-machine.md
	@make/install $(PACKAGES_BOOT) $(PACKAGES_TEST)
	@$(SUDO) env LONG=1 $(subst $(SUDO) env,,$(TEST)) -v -count=1 -run '^TestVM(Grid|Worker)$$' ./builder

unit: ## the tests that need nothing but Go
	@$(GO) test -race $(TESTFLAGS) ./...

fuzz: ## every fuzz target for FUZZTIME each
	@make/install $(PACKAGES_TEST)
	@make/fuzz $(GO) $(FUZZTIME)

test-long: base ## soaks and long simulations besides all tests
	@make/install $(PACKAGES_BOOT) $(PACKAGES_TEST)
	@$(SUDO) env "PATH=$(dir $(GO)):$$PATH" "HOME=$$HOME" GOTOOLCHAIN=local LONG=1 REQUIRE=$(REQUIRE) \
		GRID_BASE="$$($(BIN)/builder base path)" GRID_PROGRAMS=$(CURDIR)/$(BIN) $(GO) test -timeout 12h $(TESTFLAGS) ./...

# Wants the machine for itself, about half an hour, and root.
bench-image: base demo ## bases, images and boots, timed beside a stock Debian
	@make/install $(PACKAGES_BOOT) $(PACKAGES_TEST)
	@$(SUDO) env "PATH=$(dir $(GO)):$$PATH" "HOME=$$HOME" GOTOOLCHAIN=local $(GO) run ./builder/imagebench --picture docs/bench-image.svg

# ROUNDS is how many rounds make bench-overlay measures; BENCH_ONLY, a pattern
# like cable/(overlayd|wireguard-go)$$, leaves contenders out.
ROUNDS   ?= 3
bench-overlay: export BENCH_DIR := $(CURDIR)/out/bench-overlay
bench-overlay: export BENCH_DOCUMENT := $(CURDIR)/docs/bench-overlay.md
# Wants the machine for itself, about twenty minutes, and root.
bench-overlay: ## overlayd beside wireguard-go, nebula and tinc, and docs/bench-overlay.md
	@make/install $(PACKAGES_TEST) nebula tinc
	@rm -rf $(BENCH_DIR)
	@for round in $$(seq $(ROUNDS)); do \
		$(SUDO) env "PATH=$(dir $(GO)):$$PATH" "HOME=$$HOME" GOTOOLCHAIN=local BENCH_DIR=$(BENCH_DIR) BENCH_ONLY="$$BENCH_ONLY" \
			$(GO) test -count=1 -timeout 1h -run '^TestBench$$' -v ./overlayd/bench | grep -v '^=== '; done
	@$(GO) test -count=1 -run '^TestReport$$' -v ./overlayd/bench | grep -v '^=== '

# NODES is how many machines make sim runs, COARSE how many without datagrams. SIM names runs (steady, nat, churn,
# massacre, split, flash, coarse, watch; also weibull, all-nat, wild) to make
# anew; without it those are made that have no result in out/sim yet, so a set
# that was killed goes on. DOCUMENT gets the tables and plots; with SMALLER=1
# also of runs with fewer machines than NODES, which it then names.
NODES    ?= 10000
COARSE   ?= 100000
SIM      ?=
SMALLER  ?=
DOCUMENT ?= docs/simulation.md
sim: export SIM_DIR := $(CURDIR)/out/sim
sim: export SIM_NODES = $(NODES)
sim: export SIM_COARSE = $(COARSE)
sim: export SIM_DOCUMENT = $(abspath $(DOCUMENT))
sim: export SIM_SMALLER = $(SMALLER)
sim: export SIM := $(SIM)

sim: ## whole overlays of NODES machines in virtual time, and docs/simulation.md; hours; SIM=churn for one run
	@$(GO) test -p 1 -count=1 -timeout 48h -run '^(TestSim|TestCoarse|TestWatch)$$' -v ./overlayd/ring ./overlayd/sim/scenario ./overlayd/sim/watch | grep -v '^=== '
	@$(GO) test -count=1 -run '^TestWriteDocument$$' -v ./overlayd/sim/report | grep -v '^=== '

# Every pair of NATs, and docs/nat.md.
nat: programs ## machines behind NATs meet: who reaches whom, how soon, what is lost; docs/nat.md
	@make/install $(PACKAGES_TEST)
	@$(SUDO) env "PATH=$(dir $(GO)):$$PATH" "HOME=$$HOME" GOTOOLCHAIN=local LONG=1 NAT_DOCUMENT=$(CURDIR)/docs/nat.md \
		$(GO) test -count=1 -run '^TestNATPairs$$' -v ./overlayd | grep -v '^=== '

# Wants the machine for itself, about ten minutes, and root.
joining: base ## thirty machines that join at once: how long each takes; docs/joining.md
	@make/install $(PACKAGES_TEST)
	@$(SUDO) env LONG=1 JOINING_DOCUMENT=$(CURDIR)/docs/joining.md $(subst -race,,$(subst $(SUDO) env,,$(TEST))) -v -count=1 -run '^TestScale$$' ./firstboot

update: ## rewrite golden files and generated documents
	@$(GO) test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n 1 dirname | sort -u) -update

clean: ## remove what make wrote into this folder; the cache stays
	@rm -rf $(BIN) out demo
