/* aml.c: write AML into a fixed buffer (ACPI 6.5, 20.2 for the encoding, 6.4 for resource descriptors). */
#include "x86/aml.h"

#include <string.h>

enum {
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_EXT = 0x5b,
	OP_NOTIFY = 0x86,
	OP_EXT_DEVICE = 0x82,
};

/* Every length takes two bytes, so that a block's start is known before its end: up to 4095. */
#define PKG_LENGTH_SIZE 2u
#define PKG_LENGTH_MAX  4095u

/* A resource buffer starts with its size as a word. */
#define BUFFER_SIZE_LEN 3u

static void put(struct aml *a, const void *bytes, size_t len)
{
	if (a->overflow || len > a->room - a->len) {
		a->overflow = true;
		return;
	}
	memcpy(a->buf + a->len, bytes, len);
	a->len += len;
}

static void put8(struct aml *a, uint8_t value)
{
	put(a, &value, 1);
}

static void put16(struct aml *a, uint16_t value)
{
	put8(a, (uint8_t)value);
	put8(a, (uint8_t)(value >> 8));
}

static void put32(struct aml *a, uint32_t value)
{
	put16(a, (uint16_t)value);
	put16(a, (uint16_t)(value >> 16));
}

static size_t open_block(struct aml *a)
{
	size_t block = a->len;

	put16(a, 0);
	return block;
}

size_t aml_scope(struct aml *a, const char *path)
{
	size_t block;

	put8(a, OP_SCOPE);
	block = open_block(a);
	put(a, path, strlen(path));
	return block;
}

size_t aml_device(struct aml *a, const char name[4])
{
	size_t block;

	put8(a, OP_EXT);
	put8(a, OP_EXT_DEVICE);
	block = open_block(a);
	put(a, name, 4);
	return block;
}

size_t aml_resources(struct aml *a)
{
	size_t block;

	put8(a, OP_NAME);
	put(a, "_CRS", 4);
	put8(a, OP_BUFFER);
	block = open_block(a);
	put8(a, OP_WORD);
	put16(a, 0);
	return block;
}

/* 20.2.4: two-byte form: the low nibble in the first byte, with the count of bytes that follow in bits 7:6. */
void aml_end(struct aml *a, size_t block)
{
	size_t len = a->len - block;

	if (a->overflow || len > PKG_LENGTH_MAX) {
		a->overflow = true;
		return;
	}
	a->buf[block] = (uint8_t)(1u << 6 | (len & 0xf));
	a->buf[block + 1] = (uint8_t)(len >> 4);
}

void aml_end_resources(struct aml *a, size_t block)
{
	size_t len;

	/* 6.4.2.9: end tag; checksum 0 means that there is none. */
	put8(a, 0x79);
	put8(a, 0);
	aml_end(a, block);
	if (a->overflow)
		return;
	len = a->len - block - PKG_LENGTH_SIZE - BUFFER_SIZE_LEN;
	a->buf[block + PKG_LENGTH_SIZE + 1] = (uint8_t)len;
	a->buf[block + PKG_LENGTH_SIZE + 2] = (uint8_t)(len >> 8);
}

static void put_name(struct aml *a, const char name[4])
{
	put8(a, OP_NAME);
	put(a, name, 4);
}

void aml_name_string(struct aml *a, const char name[4], const char *value)
{
	put_name(a, name);
	put8(a, OP_STRING);
	put(a, value, strlen(value) + 1);
}

static void put_dword(struct aml *a, uint32_t value)
{
	put8(a, OP_DWORD);
	put32(a, value);
}

void aml_name_dword(struct aml *a, const char name[4], uint32_t value)
{
	put_name(a, name);
	put_dword(a, value);
}

void aml_name_address(struct aml *a, const char name[4], uint64_t address)
{
	size_t block;

	put_name(a, name);
	put8(a, OP_PACKAGE);
	block = open_block(a);
	put8(a, 2);
	put_dword(a, (uint32_t)address);
	put_dword(a, (uint32_t)(address >> 32));
	aml_end(a, block);
}

/* 20.2.5.2: the flags are the number of arguments, and zeros: not serialized. */
size_t aml_method(struct aml *a, const char name[4], uint8_t nr_args)
{
	size_t block;

	put8(a, OP_METHOD);
	block = open_block(a);
	put(a, name, 4);
	put8(a, nr_args);
	return block;
}

void aml_notify(struct aml *a, const char device[4], uint8_t value)
{
	put8(a, OP_NOTIFY);
	put(a, device, 4);
	put8(a, OP_BYTE);
	put8(a, value);
}

/* 6.4.3.4: large item 6, nine bytes; 1: read/write. */
void aml_memory32(struct aml *a, uint32_t base, uint32_t size)
{
	put8(a, 0x86);
	put16(a, 9);
	put8(a, 1);
	put32(a, base);
	put32(a, size);
}

/* 6.4.2.5: small item 8, seven bytes; minimum equals maximum, so it cannot move. */
void aml_io(struct aml *a, uint16_t base, uint8_t size)
{
	put8(a, 0x47);
	put8(a, 1);
	put16(a, base);
	put16(a, base);
	put8(a, 1);
	put8(a, size);
}

/* 6.4.3.6: large item 9, six bytes; flags: bit 0 consumer, bit 1 edge, bit 2 active low, bit 3 shared. */
void aml_interrupt(struct aml *a, uint32_t gsi)
{
	put8(a, 0x89);
	put16(a, 6);
	put8(a, 0x3);
	put8(a, 1);
	put32(a, gsi);
}
