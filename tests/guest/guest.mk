# guest.mk: builds the test guest. Included by the top Makefile; everything lands in $(BUILD)/tests/guest/.
#
#   guest.elf      PVH note and 64-bit entry: for monitors that know either
#   guest-64.elf   the same without the note: forces the 64-bit boot protocol
#   first.elf      five instructions: 'F' on the serial port, then reset

BUILD ?= build
GUEST_DIR := tests/guest
GUEST_OUT := $(BUILD)/tests/guest
GUEST_CC ?= gcc
# No SSE: nobody has set it up. No red zone: not needed, and traps are easier to reason about without.
GUEST_CFLAGS := -std=gnu11 -O2 -g -ffreestanding -fno-pie -mgeneral-regs-only -mno-red-zone \
	-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-builtin -fno-strict-aliasing \
	-Wall -Wextra -Wconversion -Wimplicit-fallthrough
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,-z,max-page-size=4096 -Wl,--build-id=none -Wl,-z,noexecstack

GUEST_SRC := $(filter-out $(GUEST_DIR)/first.S,$(wildcard $(GUEST_DIR)/*.c $(GUEST_DIR)/*.S))
GUEST_HDR := $(wildcard $(GUEST_DIR)/*.h)
GUEST_OBJ := $(patsubst $(GUEST_DIR)/%.c,$(GUEST_OUT)/%.o,$(filter %.c,$(GUEST_SRC)))
GUEST_ELFS := $(GUEST_OUT)/guest.elf $(GUEST_OUT)/guest-64.elf $(GUEST_OUT)/first.elf

.PHONY: guest
guest: $(GUEST_ELFS) ## build the freestanding test guest

$(GUEST_OUT)/%.o: $(GUEST_DIR)/%.c $(GUEST_HDR)
	@mkdir -p $(@D)
	@echo "  GUEST   $@"
	@$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OUT)/start-pvh.o: $(GUEST_DIR)/start.S $(GUEST_HDR)
	@mkdir -p $(@D)
	@echo "  GUEST   $@"
	@$(GUEST_CC) -DGUEST_PVH -c -o $@ $<

$(GUEST_OUT)/start-64.o: $(GUEST_DIR)/start.S $(GUEST_HDR)
	@mkdir -p $(@D)
	@echo "  GUEST   $@"
	@$(GUEST_CC) -c -o $@ $<

$(GUEST_OUT)/guest.elf: $(GUEST_OUT)/start-pvh.o $(GUEST_OBJ) $(GUEST_DIR)/guest.ld
	@echo "  GUEST   $@"
	@$(GUEST_CC) $(GUEST_LDFLAGS) -Wl,-T,$(GUEST_DIR)/guest.ld -o $@ $(filter %.o,$^)

$(GUEST_OUT)/guest-64.elf: $(GUEST_OUT)/start-64.o $(GUEST_OBJ) $(GUEST_DIR)/guest.ld
	@echo "  GUEST   $@"
	@$(GUEST_CC) $(GUEST_LDFLAGS) -Wl,-T,$(GUEST_DIR)/guest.ld -o $@ $(filter %.o,$^)

$(GUEST_OUT)/first.elf: $(GUEST_DIR)/first.S $(GUEST_DIR)/first.ld
	@mkdir -p $(@D)
	@echo "  GUEST   $@"
	@$(GUEST_CC) $(GUEST_LDFLAGS) -Wl,-T,$(GUEST_DIR)/first.ld -o $@ $<
