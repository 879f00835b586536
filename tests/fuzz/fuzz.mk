# fuzz.mk: builds the fuzz targets with clang's libFuzzer. Included by the top Makefile; everything lands in $(BUILD)/fuzz/.

FUZZ_DIR := tests/fuzz
FUZZ_OUT := $(BUILD)/fuzz
COVER_OUT := $(BUILD)/coverage
FUZZ_CC ?= clang
FUZZ_SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
# clang 14 does not know what gcc's -Wconversion lets pass; the product is compiled strictly by gcc.
FUZZ_CFLAGS := $(CSTD) -Wall -Wextra -Werror -Wno-gnu-variable-sized-type-not-at-end -O1 -g -fno-omit-frame-pointer $(FUZZ_SANITIZE)
# What stands between Mayfly and the host: fuzz.c.
FUZZ_WRAPPED := clock_gettime ioctl open openat gm_at gm_read iov_read
FUZZ_LDFLAGS := $(FUZZ_WRAPPED:%=-Wl,--wrap=%)

FUZZ_TARGETS := $(patsubst $(FUZZ_DIR)/fuzz_%.c,%,$(wildcard $(FUZZ_DIR)/fuzz_*.c))
FUZZ_SHARED := $(filter-out $(FUZZ_DIR)/fuzz_% $(FUZZ_DIR)/replay.c $(FUZZ_DIR)/race.c,$(wildcard $(FUZZ_DIR)/*.c))
# A fake engine instead of io_uring, a fake life cycle instead of KVM's.
FUZZ_REPLACED := virtio/block_io_uring.c vmm/machine.c
FUZZ_OBJ := $(patsubst %.c,$(FUZZ_OUT)/obj/%.o,$(filter-out $(FUZZ_REPLACED),$(LIB_SRC)) $(FUZZ_SHARED))
FUZZ_OBJ += $(BUILD)/debug/vmm/seccomp/builtin.o
FUZZ_BIN := $(FUZZ_TARGETS:%=$(FUZZ_OUT)/%)

$(FUZZ_OUT)/obj/%.o: %.c Makefile $(FUZZ_DIR)/fuzz.mk VERSION
	@mkdir -p $(@D)
	@echo "  CC fuzz $<"
	@$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(FUZZ_BIN): $(FUZZ_OUT)/%: $(FUZZ_OUT)/obj/$(FUZZ_DIR)/fuzz_%.o $(FUZZ_OBJ)
	@echo "  FUZZER  $@"
	@$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer $(FUZZ_LDFLAGS) -o $@ $^ $(DEBUG_LIBS)

# Its unit tests' fixture, of which not all is used.
$(FUZZ_OUT)/obj/$(FUZZ_DIR)/fuzz_mmds.o: CPPFLAGS += -Itests/unit -Wno-unused-function
$(FUZZ_OUT)/mmds: DEBUG_LIBS += -lcmocka

# The guest's agent is another program, whose files have no names but their own in common with Mayfly's.
AGENT_FUZZ_SRC := $(filter rootfs/init/%,$(AGENT_SRC))
$(FUZZ_OUT)/agent: $(AGENT_FUZZ_SRC:%.c=$(FUZZ_OUT)/obj/%.o)
$(COVER_OUT)/fuzz/agent: $(AGENT_FUZZ_SRC:%.c=$(COVER_OUT)/obj/%.o)

-include $(AGENT_FUZZ_SRC:%.c=$(FUZZ_OUT)/obj/%.d) $(FUZZ_OBJ:.o=.d) $(FUZZ_TARGETS:%=$(FUZZ_OUT)/obj/$(FUZZ_DIR)/fuzz_%.d)

.PHONY: fuzz fuzz-build
fuzz-build: $(FUZZ_BIN)

fuzz: fuzz-build ## fuzz every target for FUZZ_SECONDS (600), two at a time
	@tests/fuzz/run

# ---- coverage: gcc's, of the unit tests and of the corpora, which run there without libFuzzer ----

COVER_CFLAGS := $(CSTD) -O0 -g --coverage -fprofile-abs-path -fprofile-update=atomic
COVER_OBJ := $(patsubst %.c,$(COVER_OUT)/obj/%.o,$(LIB_SRC)) $(BUILD)/debug/vmm/seccomp/builtin.o
COVER_FUZZ_OBJ := $(patsubst %.c,$(COVER_OUT)/obj/%.o,$(filter-out $(FUZZ_REPLACED),$(LIB_SRC)) $(FUZZ_SHARED) $(FUZZ_DIR)/replay.c) $(BUILD)/debug/vmm/seccomp/builtin.o
COVER_UNIT := $(patsubst tests/unit/%.c,$(COVER_OUT)/unit/%,$(filter-out tests/unit/test_jailer% tests/unit/test_containers% tests/unit/test_agent% tests/unit/test_oci%,$(UNIT_SRC)))
COVER_FUZZ := $(FUZZ_TARGETS:%=$(COVER_OUT)/fuzz/%)

$(COVER_OUT)/obj/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC  cov $<"
	@gcc $(COVER_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(COVER_OUT)/unit/%: tests/unit/%.c $(COVER_OBJ)
	@mkdir -p $(@D)
	@gcc $(CSTD) -g $(CPPFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka $(DEBUG_LIBS) --coverage

$(COVER_FUZZ): $(COVER_OUT)/fuzz/%: $(FUZZ_DIR)/fuzz_%.c $(COVER_FUZZ_OBJ)
	@mkdir -p $(@D)
	@gcc $(CSTD) -g $(CPPFLAGS) -Itests/unit $(FUZZ_LDFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) -lcmocka $(DEBUG_LIBS) --coverage

-include $(COVER_OBJ:.o=.d) $(COVER_UNIT:=.d) $(COVER_FUZZ:=.d)

.PHONY: coverage
coverage: $(COVER_UNIT) $(COVER_FUZZ) ## which lines of virtio/ and vmm/boot/ unit tests and fuzz corpora run (about 3 minutes)
	@scripts/coverage $(COVER_OUT) virtio vmm/boot

# ---- races: virtio targets with a second thread in guest memory, under ThreadSanitizer; and the whole program under it ----

RACE_OUT := $(BUILD)/race
RACE_CFLAGS := $(CSTD) -O1 -g -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan
RACE_TARGETS := block net vsock
RACE_FUZZ_OBJ := $(patsubst %.c,$(RACE_OUT)/obj/%.o,$(filter-out $(FUZZ_REPLACED),$(LIB_SRC)) $(FUZZ_SHARED) $(FUZZ_DIR)/race.c) $(BUILD)/debug/vmm/seccomp/builtin.o
RACE_OBJ := $(patsubst %.c,$(RACE_OUT)/obj/%.o,$(LIB_SRC) vmm/main.c) $(BUILD)/debug/vmm/seccomp/builtin.o
RACE_BIN := $(RACE_TARGETS:%=$(RACE_OUT)/%)

$(RACE_OUT)/obj/%.o: %.c Makefile VERSION
	@mkdir -p $(@D)
	@echo "  CC tsan $<"
	@gcc $(RACE_CFLAGS) $(CPPFLAGS) -MMD -MP -c -o $@ $<

$(RACE_BIN): $(RACE_OUT)/%: $(FUZZ_DIR)/fuzz_%.c $(RACE_FUZZ_OBJ)
	@echo "  RACE    $@"
	@gcc $(RACE_CFLAGS) $(CPPFLAGS) $(FUZZ_LDFLAGS) -MMD -MP -o $@ $< $(filter %.o,$^) $(DEBUG_LIBS)

# The same with AddressSanitizer: does a race make the device touch what it must not?
RACE_ASAN := $(RACE_TARGETS:%=$(FUZZ_OUT)/race-%)

$(RACE_ASAN): $(FUZZ_OUT)/race-%: $(FUZZ_OUT)/obj/$(FUZZ_DIR)/fuzz_%.o $(FUZZ_OUT)/obj/$(FUZZ_DIR)/race.o $(FUZZ_OBJ)
	@echo "  RACE    $@"
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_LDFLAGS) -o $@ $^ $(DEBUG_LIBS)

.PHONY: races
races: $(RACE_BIN) $(RACE_ASAN) ## race devices with a second thread in guest memory, RACE_SECONDS (20) for each and sanitizer
	@tests/fuzz/races

$(BUILD)/mayfly-tsan: $(RACE_OBJ)
	@echo "  LINK    $@"
	@gcc $(RACE_CFLAGS) -o $@ $^ $(DEBUG_LIBS)

-include $(RACE_OBJ:.o=.d) $(RACE_FUZZ_OBJ:.o=.d) $(RACE_BIN:=.d)
