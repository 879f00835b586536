/* aml.h: just enough ACPI Machine Language to describe devices (ACPI 6.5, 20.2). */
#ifndef MAYFLY_X86_AML_H
#define MAYFLY_X86_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes go to buf; once it is full nothing more is written and overflow stays true. */
struct aml {
	uint8_t *buf;
	size_t len, room;
	bool overflow;
};

/* aml_scope, aml_device, aml_resources - open a block; aml_end closes it. The value says where the block's length goes.
 */
size_t aml_scope(struct aml *a, const char *path); /* "\\_SB_" */
size_t aml_device(struct aml *a, const char name[4]);
size_t aml_resources(struct aml *a); /* Name (_CRS, Buffer () { ... }) */
void aml_end(struct aml *a, size_t block);
void aml_end_resources(struct aml *a, size_t block);

/* aml_name_string, aml_name_dword - Name (name, value) */
void aml_name_string(struct aml *a, const char name[4], const char *value);
void aml_name_dword(struct aml *a, const char name[4], uint32_t value);

/* aml_name_address - Name (name, Package () { low, high }): a 64-bit address as two integers */
void aml_name_address(struct aml *a, const char name[4], uint64_t address);

/* aml_method - open Method (name, nr_args), which aml_end closes; aml_notify - Notify (device, value), inside one */
size_t aml_method(struct aml *a, const char name[4], uint8_t nr_args);
void aml_notify(struct aml *a, const char device[4], uint8_t value);

/* Resource descriptors (ACPI 6.5, 6.4), inside aml_resources. */
void aml_memory32(struct aml *a, uint32_t base, uint32_t size); /* fixed, read/write */
void aml_io(struct aml *a, uint16_t base, uint8_t size);        /* fixed, 16-bit decode */
void aml_interrupt(struct aml *a, uint32_t gsi);                /* consumer, edge, active high, exclusive */

#endif
