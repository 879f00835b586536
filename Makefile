# Mayfly: `make help` lists the targets.

BUILD ?= build
PREFIX ?= /usr/local
VERSION := $(shell cat VERSION)

# ---- what is built from what ----

LIB_SRC := $(sort $(filter-out vmm/main.c,$(wildcard vmm/*.c vmm/boot/*.c vmm/x86/*.c vmm/legacy/*.c vmm/snapshot/*.c virtio/*.c api-server/*.c mmds/*.c)))
JAILER_SRC := $(sort $(filter-out jailer/main.c,$(wildcard jailer/*.c))) vmm/error.c vmm/text.c
AGENT_SRC := $(sort $(filter-out rootfs/init/main.c,$(wildcard rootfs/init/*.c))) vmm/error.c vmm/text.c
SNAPSHOT_TOOL_SRC := $(sort $(wildcard snapshot-tool/*.c))
# Everything of mayfly-run and mayfly-oci but their mains, and what they share with the guest's agent and the jailer.
CONTAINERS_SRC := $(sort $(filter-out containers/main.c containers/oci_main.c,$(wildcard containers/*.c))) rootfs/init/frames.c rootfs/init/tar.c \
	jailer/words.c jailer/remove.c vmm/error.c vmm/text.c
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
C_FILES := $(sort $(wildcard vmm/*.[ch] vmm/*/*.[ch] virtio/*.[ch] api-server/*.[ch] mmds/*.[ch] jailer/*.[ch] snapshot-tool/*.[ch] containers/*.[ch] rootfs/*.c rootfs/init/*.[ch] examples/*/*/*.[ch] examples/*/*/*/*.[ch] tests/unit/*.[ch] tests/guest/*.[ch] tests/fuzz/*.[ch] tests/integration/mmds_tap.c tests/integration/attack.c tests/integration/agent_host.c tests/bench/*.c tests/lab/*.c tests/proofs/*.[ch]))
SHELL_FILES := $(sort $(shell grep -lE '^\#!.*(bash|/sh)' .ci/* tests/* tests/*/* rootfs/* scripts/* examples/*/* 2>/dev/null))

MULTIARCH := $(shell gcc -print-multiarch 2>/dev/null)
CPPFLAGS := -I. -Ivmm -Ivirtio -Iapi-server -Irootfs/init -D_GNU_SOURCE -DMAYFLY_VERSION='"$(VERSION)"'
WARN := -Wall -Wextra -Wconversion -Wimplicit-fallthrough -Wmissing-prototypes -Wstrict-prototypes -Wvla -Wformat=2 -Wshadow -Werror
CSTD := -std=gnu11

# Release: static-pie against musl (half the size of glibc's, no CPUID storm at start-up: docs/decisions.md, "libc").
# Kernel headers and jansson's come from the system, after musl's own. musl's ioctl takes an int: no -Wsign-conversion here.
MUSL := /usr/lib/$(MULTIARCH:-gnu=-musl)
RELEASE_CC := musl-gcc
RELEASE_CFLAGS := $(CSTD) $(WARN) -Wno-sign-conversion -O2 -g -fPIE -ffunction-sections -fdata-sections -fno-plt -fomit-frame-pointer \
	-fstack-protector-strong -fcf-protection=full -fstack-clash-protection -ftrivial-auto-var-init=zero
FORTIFY := -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -include vmm/libc/fortify.h
RELEASE_CPPFLAGS := $(CPPFLAGS) -idirafter /usr/include/$(MULTIARCH) -idirafter /usr/include
LIBGCC_DIR := $(dir $(shell gcc -print-libgcc-file-name))
SYSTEM_LIB := /usr/lib/$(MULTIARCH)
RELEASE_LIBS := $(SYSTEM_LIB)/libjansson.a $(SYSTEM_LIB)/libhttp_parser.a $(SYSTEM_LIB)/liburing.a
RELEASE_LDFLAGS := -static-pie -nostdlib -Wl,-z,relro,-z,now,-z,noexecstack,-z,ibt,-z,shstk,--gc-sections,--build-id=none \
	-Wl,-z,separate-code -Wl,--hash-style=gnu
RELEASE_CRT_HEAD := $(MUSL)/rcrt1.o $(MUSL)/crti.o $(LIBGCC_DIR)crtbeginS.o
RELEASE_CRT_TAIL := $(LIBGCC_DIR)crtendS.o $(MUSL)/crtn.o

# Debug and unit tests: glibc, with the sanitizers watching.
DEBUG_CFLAGS := $(CSTD) $(WARN) -Og -g3 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
DEBUG_LIBS := -ljansson -lhttp_parser -luring -lpthread

# A program for the build and for users' own policies.
TOOL_CFLAGS := $(CSTD) $(WARN) -O2 -g -fstack-protector-strong

RELEASE_OBJ := $(LIB_SRC:%.c=$(BUILD)/release/%.o) $(BUILD)/release/vmm/libc/chk.o $(BUILD)/release/vmm/seccomp/builtin.o
DEBUG_OBJ := $(LIB_SRC:%.c=$(BUILD)/debug/%.o) $(BUILD)/debug/vmm/seccomp/builtin.o

# The filters that are built in: policies, compiled by our own tool. The sanitizers of the debug build need more calls.
POLICY := startup vmm snapshot fork copies vcpu block_io working_set
comma := ,
# Those that say what is more than in another.
POLICY_BASE_snapshot := vmm/seccomp/vmm.policy$(comma)
POLICY_BASE_fork := vmm/seccomp/vmm.policy$(comma)vmm/seccomp/snapshot.policy$(comma)
POLICY_BASE_copies := vmm/seccomp/startup.policy$(comma)
SECCOMPILER_SRC := vmm/seccomp/seccompiler.c vmm/seccomp/policy.c vmm/seccomp/constants.c vmm/seccomp/shrink.c
SECCOMPILER_OBJ := $(SECCOMPILER_SRC:%.c=$(BUILD)/tool/%.o)
TEST_PROGRAMS := $(BUILD)/integration/mmds_tap $(BUILD)/integration/agent_host $(BUILD)/mayfly-attack $(BUILD)/mayfly-tsan
JAILER_OBJ := $(JAILER_SRC:%.c=$(BUILD)/release/%.o) $(BUILD)/release/vmm/libc/chk.o
JAILER_DEBUG_OBJ := $(JAILER_SRC:%.c=$(BUILD)/debug/%.o)
AGENT_OBJ := $(AGENT_SRC:%.c=$(BUILD)/agent/%.o) $(BUILD)/agent/rootfs/init/main.o
AGENT_DEBUG_OBJ := $(AGENT_SRC:%.c=$(BUILD)/debug/%.o)
SNAPSHOT_TOOL_OBJ := $(SNAPSHOT_TOOL_SRC:%.c=$(BUILD)/release/%.o) $(LIB_SRC:%.c=$(BUILD)/release/%.o) $(BUILD)/release/vmm/libc/chk.o
SNAPSHOT_TOOL_DEBUG_OBJ := $(SNAPSHOT_TOOL_SRC:%.c=$(BUILD)/debug/%.o) $(DEBUG_OBJ)
CONTAINERS_OBJ := $(CONTAINERS_SRC:%.c=$(BUILD)/release/%.o) $(BUILD)/release/vmm/libc/chk.o
CONTAINERS_DEBUG_OBJ := $(CONTAINERS_SRC:%.c=$(BUILD)/debug/%.o)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)

.PHONY: all debug deps kernel kernel-generic rootfs debian demo demo-all demo-faas check check-unit check-native check-lab check-fuzz soak faults bench proofs sbom lint format help install clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BUILD)/mayfly $(BUILD)/mayfly-jailer $(BUILD)/mayfly-run $(BUILD)/mayfly-oci $(BUILD)/mayfly-snapshot $(BUILD)/mayfly-seccompiler $(BUILD)/mayfly-init ## build the release: build/mayfly, its jailer and tools (static, hardened)

debug: $(BUILD)/mayfly-debug $(BUILD)/mayfly-jailer-debug $(BUILD)/mayfly-run-debug $(BUILD)/mayfly-oci-debug $(BUILD)/mayfly-snapshot-debug ## build them with AddressSanitizer and UBSan: build/mayfly-debug

$(BUILD)/mayfly: $(RELEASE_OBJ) $(BUILD)/release/vmm/main.o Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,-Map=$@.map -o $@.full $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(RELEASE_LIBS) $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)
	@strip -o $@ $@.full

$(BUILD)/mayfly-debug: $(DEBUG_OBJ) $(BUILD)/debug/vmm/main.o
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^ $(DEBUG_LIBS)

$(BUILD)/mayfly-jailer: $(JAILER_OBJ) $(BUILD)/release/jailer/main.o Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,-Map=$@.map -o $@ -s $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)

$(BUILD)/mayfly-jailer-debug: $(JAILER_DEBUG_OBJ) $(BUILD)/debug/jailer/main.o
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^

# The guest's init and agent: small rather than quick, at a fixed address, one process that trusts nobody but its kernel.
$(BUILD)/mayfly-init: $(AGENT_OBJ) Makefile
	@echo "  LINK    $@"
	@$(RELEASE_CC) -static -no-pie -Wl,-z,noseparate-code,-z,noexecstack,--gc-sections,--build-id=none,-Map=$@.map -s -o $@ $(filter %.o,$^)

$(BUILD)/agent/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC init $<"
	@$(RELEASE_CC) $(CSTD) $(WARN) -Wno-sign-conversion -Os -fno-pie -ffunction-sections -fdata-sections -fstack-protector-strong \
		$(RELEASE_CPPFLAGS) -MMD -MP -c -o $@ $<

# The same agent as a program of the host's, for tests: it listens on a Unix socket.
$(BUILD)/integration/agent_host: tests/integration/agent_host.c $(AGENT_DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^)

$(BUILD)/mayfly-run: $(CONTAINERS_OBJ) $(BUILD)/release/containers/main.o Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,-Map=$@.map -o $@ -s $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(SYSTEM_LIB)/libjansson.a $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)

$(BUILD)/mayfly-oci: $(CONTAINERS_OBJ) $(BUILD)/release/containers/oci_main.o Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,-Map=$@.map -o $@ -s $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(SYSTEM_LIB)/libjansson.a $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)

$(BUILD)/mayfly-oci-debug: $(CONTAINERS_DEBUG_OBJ) $(BUILD)/debug/containers/oci_main.o
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^ -ljansson

$(BUILD)/mayfly-run-debug: $(CONTAINERS_DEBUG_OBJ) $(BUILD)/debug/containers/main.o
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^ -ljansson

# All of Mayfly is offered to the linker, which keeps what the tool calls: the same readers of state files and JSON.
$(BUILD)/mayfly-snapshot: $(SNAPSHOT_TOOL_OBJ) Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,-Map=$@.map -o $@ -s $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(RELEASE_LIBS) $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)

$(BUILD)/mayfly-snapshot-debug: $(SNAPSHOT_TOOL_DEBUG_OBJ)
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^ $(DEBUG_LIBS)

$(BUILD)/release/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(RELEASE_CC) $(RELEASE_CFLAGS) $(FORTIFY) $(RELEASE_CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/mayfly-seccompiler: $(SECCOMPILER_OBJ)
	@echo "  LINK    $@"
	@gcc $(TOOL_CFLAGS) -o $@ $^ -lseccomp

$(BUILD)/tool/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC tool $<"
	@gcc $(TOOL_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/seccomp/release.filter: $(BUILD)/mayfly-seccompiler $(POLICY:%=vmm/seccomp/%.policy)
	@mkdir -p $(@D)
	@echo "  POLICY  $@"
	@$< --output $@ $(foreach p,$(POLICY),$(p)=$(POLICY_BASE_$(p))vmm/seccomp/$(p).policy)

$(BUILD)/seccomp/debug.filter: $(BUILD)/mayfly-seccompiler $(POLICY:%=vmm/seccomp/%.policy) vmm/seccomp/debug.policy
	@mkdir -p $(@D)
	@echo "  POLICY  $@"
	@$< --output $@ $(foreach p,$(POLICY),$(p)=$(POLICY_BASE_$(p))vmm/seccomp/$(p).policy$(comma)vmm/seccomp/debug.policy)

$(BUILD)/%/vmm/seccomp/builtin.o: vmm/seccomp/builtin.S $(BUILD)/seccomp/%.filter $(BUILD)/seccomp/call_names.inc
	@mkdir -p $(@D)
	@gcc -c -DFILTERS='"$(BUILD)/seccomp/$*.filter"' -DNAMES='"$(BUILD)/seccomp/call_names.inc"' -o $@ $<

# The name of each system call, in the order of their numbers.
$(BUILD)/seccomp/call_names.inc: Makefile
	@mkdir -p $(@D)
	@echo '#include <asm/unistd_64.h>' | gcc -E -dM - | awk '$$2 ~ /^__NR_/ { name[$$3] = substr($$2, 6); if ($$3 + 0 > last) last = $$3 + 0 } \
		END { for (i = 0; i <= last; i++) print "\t.asciz \"" name[i] "\"" }' >$@

# The checked functions themselves are made of the plain ones.
$(BUILD)/release/vmm/libc/chk.o: FORTIFY :=

$(BUILD)/debug/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC  dbg $<"
	@gcc $(DEBUG_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/unit/%: tests/unit/%.c $(DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka $(DEBUG_LIBS)

$(BUILD)/unit/test_jailer%: tests/unit/test_jailer%.c $(JAILER_DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka

$(BUILD)/unit/test_agent%: tests/unit/test_agent%.c $(AGENT_DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka

$(BUILD)/unit/test_oci%: tests/unit/test_oci%.c $(CONTAINERS_DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -MMD -MP -o $@ $< $(filter-out $(BUILD)/debug/containers/command_%.o,$(filter %.o,$^)) -lcmocka -ljansson

$(BUILD)/unit/test_containers%: tests/unit/test_containers%.c $(CONTAINERS_DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) -Wno-missing-prototypes $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka -ljansson

# The metadata service behind a TAP, for tests with real clients.
$(BUILD)/integration/mmds_tap: tests/integration/mmds_tap.c $(DEBUG_OBJ)
	@mkdir -p $(@D)
	@echo "  TEST    $<"
	@gcc $(DEBUG_CFLAGS) $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(DEBUG_LIBS)

# The release with a hook for tests of the jail: threads make whatever system call the test wants.
$(BUILD)/integration/attack.o: tests/integration/attack.c Makefile
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(RELEASE_CC) $(RELEASE_CFLAGS) $(FORTIFY) $(RELEASE_CPPFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/mayfly-attack: $(RELEASE_OBJ) $(BUILD)/release/vmm/main.o $(BUILD)/integration/attack.o
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -Wl,--wrap=preadv,--wrap=io_uring_queue_init_params -o $@ $(RELEASE_CRT_HEAD) $^ $(RELEASE_LIBS) \
		$(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)

-include $(CONTAINERS_OBJ:.o=.d) $(CONTAINERS_DEBUG_OBJ:.o=.d) $(BUILD)/release/containers/main.d $(BUILD)/debug/containers/main.d $(BUILD)/release/containers/oci_main.d $(BUILD)/debug/containers/oci_main.d
-include $(AGENT_OBJ:.o=.d) $(AGENT_DEBUG_OBJ:.o=.d) $(BUILD)/integration/agent_host.d $(SNAPSHOT_TOOL_OBJ:.o=.d) $(SNAPSHOT_TOOL_DEBUG_OBJ:.o=.d) $(JAILER_OBJ:.o=.d) $(JAILER_DEBUG_OBJ:.o=.d) $(BUILD)/release/jailer/main.d $(BUILD)/debug/jailer/main.d $(BUILD)/integration/attack.d $(SECCOMPILER_OBJ:.o=.d) $(RELEASE_OBJ:.o=.d) $(DEBUG_OBJ:.o=.d) $(BUILD)/release/vmm/main.d $(BUILD)/debug/vmm/main.d $(UNIT_BIN:=.d) $(BUILD)/integration/mmds_tap.d
-include tests/guest/guest.mk
-include tests/fuzz/fuzz.mk

# ---- what is fetched, built once and kept ----

deps: ## install the Debian packages that everything here needs
	@scripts/deps

kernel: ## build the two guest kernels (about 10 minutes, once)
	@rootfs/build-kernel smp
	@rootfs/build-kernel up

kernel-generic: ## build the kernel that also runs under other monitors (about 6 minutes, once)
	@rootfs/build-kernel generic

rootfs: $(BUILD)/mayfly-init ## build the small guest images (seconds)
	@rootfs/build-image rootfs

debian: ## a Debian root image, and Debian's own cloud kernel (about 2 minutes, once)
	@rootfs/build-image debian.ext4
	@rootfs/fetch-debian-kernel

# ---- what people run ----

demo: ## boot real kernels and show how long each step took
	@scripts/deps --quiet
	@$(MAKE) --no-print-directory all kernel rootfs
	@scripts/demo

demo-all: ## the same for every kind of guest: 1-8 vCPUs, 64 MiB-6 GiB, Debian's own kernel
	@scripts/deps --quiet
	@$(MAKE) --no-print-directory all kernel rootfs debian
	@scripts/demo all

demo-faas: ## serve functions, each request by a fork of a warm microVM, and show what that costs (about 10 minutes in the lab)
	@scripts/deps --quiet
	@$(MAKE) --no-print-directory all kernel rootfs
	@rootfs/build-image functions.ext4
	@examples/faas/make-functions hello python numpy node
	@examples/faas/demo

CHECK ?= unit native lab
check: ## run every test: unit, native, lab (CHECK="unit native fuzz proofs lab" is what CI runs)
	@scripts/deps --quiet
	@$(MAKE) --no-print-directory all debug guest $(TEST_PROGRAMS) $(UNIT_BIN) $(filter fuzz-build,$(CHECK:fuzz=fuzz-build))
	@$(MAKE) --no-print-directory rootfs debian kernel
	@tests/check $(CHECK)

check-unit: $(UNIT_BIN) ## run the unit tests
	@tests/check unit

check-native: all debug guest $(TEST_PROGRAMS) ## run the tests that this host's KVM can run
	@tests/check native

check-lab: all debug kernel rootfs debian guest ## run the tests that need a Linux guest
	@tests/check lab

check-fuzz: fuzz-build ## fuzz each target for FUZZ_SECONDS (60)
	@tests/check fuzz

soak: all kernel debian ## keep every device of a Linux guest busy for SOAK_SECONDS (600) while the API is asked
	@tests/check soak

faults: all debug guest ## make the host fail in every way at every system call, and start and stop 10 000 microVMs
	@tests/check faults

bench: all guest kernel kernel-generic rootfs ## measure against other monitors (FIRECRACKER=, KVMTOOL=, CLOUD_HYPERVISOR= add peers)
	@tests/bench/run

proofs: ## prove the files that take a guest's numbers free of undefined behaviour (Frama-C; about 3 minutes)
	@tests/proofs/run
	@tests/proofs/run --self-test

lint: ## clang-format, clang-tidy, cppcheck, shellcheck, mypy
	@scripts/lint "$(C_FILES)" "$(SHELL_FILES)" -- $(CSTD) $(filter-out -DMAYFLY%,$(CPPFLAGS))

format: ## rewrite the C files in the tree's format
	@clang-format -i $(C_FILES)

sbom: all ## list what the programs are made of: build/mayfly.spdx.json
	@scripts/sbom $(addprefix $(BUILD)/,mayfly mayfly-jailer mayfly-run mayfly-oci mayfly-init mayfly-snapshot) >$(BUILD)/mayfly.spdx.json
	@echo "  SBOM    $(BUILD)/mayfly.spdx.json"

install: all ## install into PREFIX (default /usr/local)
	install -D -m 0755 $(BUILD)/mayfly $(DESTDIR)$(PREFIX)/bin/mayfly
	install -D -m 0755 $(BUILD)/mayfly-seccompiler $(DESTDIR)$(PREFIX)/bin/mayfly-seccompiler
	install -D -m 0755 $(BUILD)/mayfly-snapshot $(DESTDIR)$(PREFIX)/bin/mayfly-snapshot
	install -D -m 0755 $(BUILD)/mayfly-jailer $(DESTDIR)$(PREFIX)/bin/mayfly-jailer
	install -D -m 0755 $(BUILD)/mayfly-run $(DESTDIR)$(PREFIX)/bin/mayfly-run
	install -D -m 0755 $(BUILD)/mayfly-oci $(DESTDIR)$(PREFIX)/bin/mayfly-oci
	install -D -m 0644 containers/mayfly-run.1 $(DESTDIR)$(PREFIX)/share/man/man1/mayfly-run.1
	install -D -m 0644 containers/mayfly-run.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mayfly-run
	install -d $(DESTDIR)$(PREFIX)/lib/mayfly/image
	install -m 0755 rootfs/mayfly-image $(DESTDIR)$(PREFIX)/lib/mayfly/mayfly-image
	install -m 0644 rootfs/image/*.py $(DESTDIR)$(PREFIX)/lib/mayfly/image
	/usr/bin/python3 -m compileall -q -s "$(DESTDIR)" -p / $(DESTDIR)$(PREFIX)/lib/mayfly/image
	ln -sf ../lib/mayfly/mayfly-image $(DESTDIR)$(PREFIX)/bin/mayfly-image
	for k in $(wildcard $(BUILD)/kernel/vmlinux-up $(BUILD)/kernel/vmlinux-smp $(BUILD)/images/container-initrd.cpio); do \
		install -D -m 0644 $$k $(DESTDIR)$(PREFIX)/lib/mayfly/$$(basename $$k); done

clean: ## remove what was compiled (kernels and images stay; rm -r build removes all)
	rm -rf $(addprefix $(BUILD)/,release debug agent unit tool seccomp integration fuzz/obj coverage race) $(wildcard $(BUILD)/mayfly*)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
