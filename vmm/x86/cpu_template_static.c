/* cpu_template_static.c: Firecracker's static CPU templates, as tables of the bits that each clears and sets. */
#include <string.h>

#include "x86/cpu_template.h"

#define INTEL "GenuineIntel"
#define AMD   "AuthenticAMD"

/* CPUID leaf 1, EAX, without the processor type */
#define SKYLAKE      0x50654
#define CASCADE_LAKE 0x50657
#define ICE_LAKE     0x606a6
#define MILAN        0xa00f11

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/* No uapi header has this number (Intel SDM 4, table 2-2). */
#define MSR_IA32_ARCH_CAPABILITIES 0x10a

#define KEEP         \
	{            \
		0, 0 \
	}
#define SIGNATURE(fms)          \
	{                       \
		0x0fff3fff, fms \
	}

/*
 * What T2 and its relatives share: the processor of an AWS T2 instance, a Haswell. Leaf 1: no DTES64, MONITOR, DS-CPL,
 * VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA, PSN, DS, ACPI, SS, TM, IA-64, PBE; MCE and MTRR. Leaf 7: no
 * SGX, HLE, RTM, RDT, MPX, RDSEED, ADX, PCOMMIT, CLFLUSHOPT, CLWB, PT, SHA, AVX-512 of any kind, UMIP, PKU, GFNI, VAES,
 * VPCLMULQDQ, LA57, RDPID, SGX_LC, FSRM; ERMS. Leaf 0xd: no state of MPX, AVX-512, PKRU; no XSAVEC, XGETBV, XSAVES.
 */
#define HASWELL                                                                                        \
	{ 0x1, 0, 0, { SIGNATURE(0x306f2), KEEP, { 0x4cdfc, 0 }, { 0xe8640000, 0x1080 } } },           \
		{ 0x7, 0, INDEXED, { KEEP, { 0xffefd814, 0x200 }, { 0x40415f5e, 0 }, { 0x11c, 0 } } }, \
		{ 0xd, 0, INDEXED, { { 0x2f8, 0 }, KEEP, KEEP, KEEP } },                               \
	{                                                                                              \
		0xd, 1, INDEXED,                                                                       \
		{                                                                                      \
			{ 0xe, 0 }, KEEP, KEEP, KEEP                                                   \
		}                                                                                      \
	}

/* No PREFETCHW, MONITORX, 1 GiB pages, WBNOINVD. */
static const struct cpuid_modifier t2_leaves[] = {
	HASWELL,
	{ 0x80000001, 0, 0, { KEEP, KEEP, { 0x20000100, 0 }, { 0x4000000, 0 } } },
	{ 0x80000008, 0, 0, { KEEP, { 0x200, 0 }, KEEP, KEEP } },
};

/* T2, and those bits cleared that only AMD has, as T2A clears those that only Intel has. */
static const struct cpuid_modifier t2cl_leaves[] = {
	HASWELL,
	{ 0x80000001, 0, 0, { KEEP, KEEP, { 0x200001c0, 0 }, { 0x7c00000, 0 } } },
	{ 0x80000008, 0, 0, { KEEP, { 0x200, 0 }, KEEP, KEEP } },
};

/* No SVM, SSE4A, MisAlignSse, 3DNowPrefetch, MONITORX, MmxExt, FFXSR, 1 GiB pages, CLZERO, WBNOINVD; RstrFpErrPtrs and
 * what Milan says of IBRS and LMSLE. */
static const struct cpuid_modifier t2a_leaves[] = {
	HASWELL,
	{ 0x80000001, 0, 0, { KEEP, KEEP, { 0x200001c4, 0 }, { 0x6400000, 0 } } },
	{ 0x80000008, 0, 0, { KEEP, { 0x201, 0x1c0004 }, KEEP, KEEP } },
};

/*
 * The processor of an AWS C3 instance, an Ivy Bridge: of the above SMX, EIST, DCA, ERMS, GFNI and the vector extensions
 * that came with Ice Lake stay as they are, and FMA, MOVBE, BMI, AVX2, INVPCID and LZCNT go.
 */
static const struct cpuid_modifier c3_leaves[] = {
	{ 0x1, 0, 0, { SIGNATURE(0x306e4), KEEP, { 0x40dd3c, 0 }, { 0xa8640000, 0x1080 } } },
	{ 0x7, 0, INDEXED, { KEEP, { 0xffafdd3c, 0 }, { 0x4041481e, 0 }, { 0xc, 0 } } },
	{ 0xd, 0, INDEXED, { { 0x2f8, 0 }, KEEP, KEEP, KEEP } },
	{ 0xd, 1, INDEXED, { { 0xe, 0 }, KEEP, KEEP, KEEP } },
	{ 0x80000001, 0, 0, { KEEP, KEEP, { 0x120, 0 }, { 0x4000000, 0 } } },
};

/* What is true of Skylake and Cascade Lake alike: RSBA, SKIP_L1DFL_VMENTRY, IF_PSCHANGE_MC_NO, MISC_PACKAGE_CTLS,
 * ENERGY_FILTERING_CTL, FB_CLEAR, RRSBA, GDS_NO, RFDS_NO, and nothing else. */
static const struct msr_modifier t2s_msrs[] = {
	{ MSR_IA32_ARCH_CAPABILITIES, UINT64_MAX, 0xc0a0c4c },
};

/* Controls and reserved bits go; whatever says that a mitigation is not needed stays. */
static const struct msr_modifier t2cl_msrs[] = {
	{ MSR_IA32_ARCH_CAPABILITIES, 0xffffffffe2f51e00, 0 },
};

#define LEAVES(table) .leaves = table, .nr_leaves = sizeof(table) / sizeof((table)[0])
#define MSRS(table)   .msrs = table, .nr_msrs = sizeof(table) / sizeof((table)[0])

static const struct cpu_template templates[] = {
	{ .name = "C3",
	  .vendor = INTEL,
	  .models = { SKYLAKE, CASCADE_LAKE, ICE_LAKE },
	  .processors = "Intel Skylake, Cascade Lake and Ice Lake",
	  .warning =
		  "where the processor does not list FBSDP_NO, PSDP_NO and SBDR_SSDP_NO, the guest's kernel does not "
		  "mitigate MMIO stale data",
	  LEAVES(c3_leaves) },
	{ .name = "T2",
	  .vendor = INTEL,
	  .models = { SKYLAKE, CASCADE_LAKE, ICE_LAKE },
	  .processors = "Intel Skylake, Cascade Lake and Ice Lake",
	  LEAVES(t2_leaves) },
	{ .name = "T2S",
	  .vendor = INTEL,
	  .models = { SKYLAKE, CASCADE_LAKE },
	  .processors = "Intel Skylake and Cascade Lake",
	  LEAVES(t2_leaves),
	  MSRS(t2s_msrs) },
	{ .name = "T2CL",
	  .vendor = INTEL,
	  .models = { CASCADE_LAKE, ICE_LAKE },
	  .processors = "Intel Cascade Lake and Ice Lake",
	  LEAVES(t2cl_leaves),
	  MSRS(t2cl_msrs) },
	{ .name = "T2A", .vendor = AMD, .models = { MILAN }, .processors = "AMD Milan", LEAVES(t2a_leaves) },
};

const struct cpu_template *cpu_template_static(const char *name)
{
	unsigned int i;

	for (i = 0; i < sizeof(templates) / sizeof(templates[0]); i++)
		if (strcmp(templates[i].name, name) == 0)
			return &templates[i];
	return NULL;
}
