# Mayfly: `make help` lists the targets.

BUILD ?= build
PREFIX ?= /usr/local
VERSION := $(shell cat VERSION)

# ---- what is built from what ----

LIB_SRC := $(sort $(filter-out vmm/main.c,$(wildcard vmm/*.c vmm/boot/*.c vmm/x86/*.c vmm/legacy/*.c virtio/*.c api-server/*.c)))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
C_FILES := $(sort $(wildcard vmm/*.[ch] vmm/*/*.[ch] virtio/*.[ch] api-server/*.[ch] rootfs/*.c tests/unit/*.[ch] tests/guest/*.[ch] tests/bench/*.c tests/lab/*.c))
SHELL_FILES := $(sort $(shell grep -lE '^\#!.*(bash|/sh)' .ci/* tests/* tests/*/* rootfs/* scripts/* 2>/dev/null))

MULTIARCH := $(shell gcc -print-multiarch 2>/dev/null)
CPPFLAGS := -I. -Ivmm -Ivirtio -Iapi-server -D_GNU_SOURCE -DMAYFLY_VERSION='"$(VERSION)"'
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
RELEASE_LIBS := $(SYSTEM_LIB)/libjansson.a $(SYSTEM_LIB)/liburing.a
RELEASE_LDFLAGS := -static-pie -nostdlib -Wl,-z,relro,-z,now,-z,noexecstack,-z,ibt,-z,shstk,--gc-sections,--build-id=none \
	-Wl,-z,separate-code -Wl,--hash-style=gnu
RELEASE_CRT_HEAD := $(MUSL)/rcrt1.o $(MUSL)/crti.o $(LIBGCC_DIR)crtbeginS.o
RELEASE_CRT_TAIL := $(LIBGCC_DIR)crtendS.o $(MUSL)/crtn.o

# Debug and unit tests: glibc, with the sanitizers watching.
DEBUG_CFLAGS := $(CSTD) $(WARN) -Og -g3 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
DEBUG_LIBS := -ljansson -luring -lpthread

RELEASE_OBJ := $(LIB_SRC:%.c=$(BUILD)/release/%.o) $(BUILD)/release/vmm/libc/chk.o
DEBUG_OBJ := $(LIB_SRC:%.c=$(BUILD)/debug/%.o)
UNIT_BIN := $(UNIT_SRC:tests/unit/%.c=$(BUILD)/unit/%)

.PHONY: all debug deps kernel kernel-generic rootfs debian demo demo-all check check-unit check-native check-lab bench lint format help install clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(BUILD)/mayfly ## build the release: build/mayfly (static, hardened)

debug: $(BUILD)/mayfly-debug ## build with AddressSanitizer and UBSan: build/mayfly-debug

$(BUILD)/mayfly: $(RELEASE_OBJ) $(BUILD)/release/vmm/main.o Makefile
	@echo "  LINK    $@"
	@gcc $(RELEASE_LDFLAGS) -o $@.full $(RELEASE_CRT_HEAD) $(filter %.o,$^) $(RELEASE_LIBS) $(MUSL)/libc.a -lgcc $(RELEASE_CRT_TAIL)
	@strip -o $@ $@.full

$(BUILD)/mayfly-debug: $(DEBUG_OBJ) $(BUILD)/debug/vmm/main.o
	@echo "  LINK    $@"
	@gcc $(DEBUG_CFLAGS) -o $@ $^ $(DEBUG_LIBS)

$(BUILD)/release/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(RELEASE_CC) $(RELEASE_CFLAGS) $(FORTIFY) $(RELEASE_CPPFLAGS) -MMD -MP -c -o $@ $<

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

-include $(RELEASE_OBJ:.o=.d) $(DEBUG_OBJ:.o=.d) $(UNIT_BIN:=.d)
-include tests/guest/guest.mk

# ---- what is fetched, built once and kept ----

deps: ## install the Debian packages that everything here needs
	@scripts/deps

kernel: ## build the two guest kernels (about 10 minutes, once)
	@rootfs/build-kernel smp
	@rootfs/build-kernel up

kernel-generic: ## build the kernel that also runs under other monitors (about 6 minutes, once)
	@rootfs/build-kernel generic

rootfs: ## build the small guest images (seconds)
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

check: ## run every test: unit, native, lab
	@scripts/deps --quiet
	@$(MAKE) --no-print-directory all debug guest $(UNIT_BIN)
	@$(MAKE) --no-print-directory rootfs debian kernel
	@tests/check unit native lab

check-unit: $(UNIT_BIN) ## run the unit tests
	@tests/check unit

check-native: all debug guest ## run the tests that this host's KVM can run
	@tests/check native

check-lab: all debug kernel rootfs debian guest ## run the tests that need a Linux guest
	@tests/check lab

bench: all guest kernel kernel-generic rootfs ## measure against other monitors (FIRECRACKER=, KVMTOOL=, CLOUD_HYPERVISOR= add peers)
	@tests/bench/run

lint: ## clang-format, clang-tidy, cppcheck, shellcheck
	@scripts/lint "$(C_FILES)" "$(SHELL_FILES)" -- $(CSTD) $(filter-out -DMAYFLY%,$(CPPFLAGS))

format: ## rewrite the C files in the tree's format
	@clang-format -i $(C_FILES)

install: all ## install into PREFIX (default /usr/local)
	install -D -m 0755 $(BUILD)/mayfly $(DESTDIR)$(PREFIX)/bin/mayfly
	for k in $(wildcard $(BUILD)/kernel/vmlinux-up $(BUILD)/kernel/vmlinux-smp); do \
		install -D -m 0644 $$k $(DESTDIR)$(PREFIX)/lib/mayfly/$$(basename $$k); done

clean: ## remove what was compiled (kernels and images stay; rm -r build removes all)
	rm -rf $(BUILD)/release $(BUILD)/debug $(BUILD)/unit $(BUILD)/mayfly $(BUILD)/mayfly.full $(BUILD)/mayfly-debug

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
