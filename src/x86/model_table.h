// The CPU models by name: identity, CPUID levels, features; a later version says what it changes. Sources: what QEMU 7.2 answers to
// query-cpu-model-expansion; for models newer than it Intel's SDM 2A and "Architecture Instruction Set Extensions", AMD's PPRs.
#pragma once

#include <string_view>

#include "src/base/types.h"

namespace vmm::x86 {

struct ModelDefinition {
  std::string_view name, alias;  // with version; the name of its own that the version has besides, if any
  std::string_view base;         // the version that `features` changes; empty: it lists all of them
  std::string_view vendor, model_id, note;
  unsigned family, model, stepping;
  u32 level, xlevel;
  bool legacy_cache;          // leaf 4 describes the caches, not AMD's 8000001Dh
  std::string_view features;  // names, or with a base +name and -name
};

namespace so_models {

inline constexpr std::string_view amd = "AuthenticAMD", hygon = "HygonGenuine", intel = "GenuineIntel";

// clang-format off
inline constexpr ModelDefinition table[] = {
    {"486-v1", "", "", intel, "", "", 4, 8, 0, 0x1, 0x0, true,
     "fpu pse hypervisor"},
    {"Broadwell-v1", "", "", intel, "Intel Core Processor (Broadwell)", "", 6, 61, 2, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm rdseed adx smap syscall nx rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt arat"},
    {"Broadwell-v2", "Broadwell-noTSX", "Broadwell-v1", intel, "Intel Core Processor (Broadwell, no TSX)", "", 6, 61, 2, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Broadwell-v3", "Broadwell-IBRS", "Broadwell-v2", intel, "Intel Core Processor (Broadwell, IBRS)", "", 6, 61, 2, 0xd, 0x8000'0008, true,
     "+hle +rtm +spec-ctrl"},
    {"Broadwell-v4", "Broadwell-noTSX-IBRS", "Broadwell-v3", intel, "Intel Core Processor (Broadwell, no TSX, IBRS)", "", 6, 61, 2, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Cascadelake-Server-v1", "", "", intel, "Intel Xeon Processor (Cascadelake)", "", 6, 85, 6, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb avx512cd avx512bw avx512vl pku avx512vnni "
     "spec-ctrl ssbd syscall nx pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat"},
    {"Cascadelake-Server-v2", "", "Cascadelake-Server-v1", intel, "Intel Xeon Processor (Cascadelake)", "[ARCH_CAPABILITIES]", 6, 85, 6, 0xd, 0x8000'0008, true,
     "+arch-capabilities +ibrs-all +rdctl-no +mds-no +skip-l1dfl-vmentry"},
    {"Cascadelake-Server-v3", "Cascadelake-Server-noTSX", "Cascadelake-Server-v2", intel, "Intel Xeon Processor (Cascadelake)", "[ARCH_CAPABILITIES, no TSX]", 6, 85, 6, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Cascadelake-Server-v4", "", "Cascadelake-Server-v3", intel, "Intel Xeon Processor (Cascadelake)", "[ARCH_CAPABILITIES, EPT switching, no TSX]", 6, 85, 6, 0xd, 0x8000'0008, true,
     ""},
    {"Cascadelake-Server-v5", "", "Cascadelake-Server-v4", intel, "Intel Xeon Processor (Cascadelake)", "[ARCH_CAPABILITIES, EPT switching, XSAVES, no TSX]", 6, 85, 6, 0xd, 0x8000'0008, true,
     "+xsaves"},
    {"Conroe-v1", "", "", intel, "Intel Celeron_4x0 (Conroe/Merom Class Core 2)", "", 6, 15, 3, 0xa, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni ssse3 hypervisor "
     "syscall nx lm lahf-lm"},
    {"Cooperlake-v1", "", "", intel, "Intel Xeon Processor (Cooperlake)", "", 6, 85, 10, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb avx512cd avx512bw avx512vl pku avx512vnni "
     "spec-ctrl stibp arch-capabilities ssbd avx512-bf16 syscall nx pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt "
     "xsavec xgetbv1 arat ibrs-all rdctl-no mds-no skip-l1dfl-vmentry pschange-mc-no taa-no"},
    {"Cooperlake-v2", "", "Cooperlake-v1", intel, "Intel Xeon Processor (Cooperlake)", "[XSAVES]", 6, 85, 10, 0xd, 0x8000'0008, true,
     "+xsaves"},
    {"Denverton-v1", "", "", intel, "Intel Atom Processor (Denverton)", "", 6, 95, 1, 0x15, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq monitor "
     "ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave rdrand hypervisor fsgsbase smep erms mpx rdseed "
     "smap clflushopt sha-ni spec-ctrl arch-capabilities ssbd syscall nx pdpe1gb rdtscp lm lahf-lm 3dnowprefetch xsaveopt "
     "xsavec xgetbv1 arat rdctl-no skip-l1dfl-vmentry"},
    {"Denverton-v2", "", "Denverton-v1", intel, "Intel Atom Processor (Denverton)", "[no MPX, no MONITOR]", 6, 95, 1, 0x15, 0x8000'0008, true,
     "-monitor -mpx"},
    {"Denverton-v3", "", "Denverton-v2", intel, "Intel Atom Processor (Denverton)", "[XSAVES, no MPX, no MONITOR]", 6, 95, 1, 0x15, 0x8000'0008, true,
     "+xsaves"},
    {"Dhyana-v1", "", "", hygon, "Hygon Dhyana Processor", "", 24, 0, 1, 0xd, 0x8000'001e, false,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni monitor ssse3 fma "
     "cx16 sse4.1 sse4.2 movbe popcnt xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx smap "
     "clflushopt syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw "
     "topoext ibpb xsaveopt xsavec xgetbv1 arat npt nrip-save"},
    {"Dhyana-v2", "", "Dhyana-v1", hygon, "Hygon Dhyana Processor", "[XSAVES]", 24, 0, 1, 0xd, 0x8000'001e, false,
     "+xsaves"},
    {"EPYC-v1", "", "", amd, "AMD EPYC Processor", "", 23, 1, 2, 0xd, 0x8000'001e, false,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq monitor "
     "ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx "
     "smap clflushopt sha-ni syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a misalignsse "
     "3dnowprefetch osvw topoext xsaveopt xsavec xgetbv1 arat npt nrip-save"},
    {"EPYC-v2", "EPYC-IBPB", "EPYC-v1", amd, "AMD EPYC Processor (with IBPB)", "", 23, 1, 2, 0xd, 0x8000'001e, false,
     "+ibpb"},
    {"EPYC-v3", "", "EPYC-v2", amd, "AMD EPYC Processor", "", 23, 1, 2, 0xd, 0x8000'001e, false,
     "+perfctr-core +clzero +xsaveerptr +xsaves"},
    {"EPYC-Genoa-v1", "", "EPYC-Milan-v2", amd, "AMD EPYC-Genoa Processor", "", 25, 17, 0, 0xd, 0x8000'0022, false,
     "+x2apic +avx512f +avx512dq +avx512ifma +avx512cd +avx512bw +avx512vl +avx512-bf16 +avx512vbmi +avx512vbmi2 +gfni +avx512vnni "
     "+avx512bitalg +avx512-vpopcntdq +la57 +vgif +vnmi +auto-ibrs"},
    {"EPYC-Milan-v1", "", "", amd, "AMD EPYC-Milan Processor", "", 25, 1, 1, 0xd, 0x8000'001e, false,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq monitor "
     "ssse3 fma cx16 pcid sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 erms "
     "invpcid rdseed adx smap clflushopt clwb sha-ni umip pku rdpid fsrm syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm "
     "lahf-lm svm cr8legacy abm sse4a misalignsse 3dnowprefetch osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb "
     "ibrs amd-stibp amd-ssbd xsaveopt xsavec xgetbv1 xsaves arat npt nrip-save svme-addr-chk"},
    {"EPYC-Milan-v2", "", "EPYC-Milan-v1", amd, "AMD EPYC-Milan-v2 Processor", "", 25, 1, 1, 0xd, 0x8000'0021, false,
     "+vaes +vpclmulqdq +stibp-always-on +amd-psfd +no-nested-data-bp +lfence-always-serializing +null-sel-clr-base"},
    {"EPYC-Rome-v1", "", "", amd, "AMD EPYC-Rome Processor", "", 23, 49, 0, 0xd, 0x8000'001e, false,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq monitor "
     "ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep bmi2 rdseed adx "
     "smap clflushopt clwb sha-ni umip rdpid syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm lahf-lm svm cr8legacy abm sse4a "
     "misalignsse 3dnowprefetch osvw topoext perfctr-core clzero xsaveerptr wbnoinvd ibpb amd-stibp xsaveopt xsavec xgetbv1 "
     "xsaves arat npt nrip-save"},
    {"EPYC-Rome-v2", "", "EPYC-Rome-v1", amd, "AMD EPYC-Rome Processor", "", 23, 49, 0, 0xd, 0x8000'001e, false,
     "+ibrs +amd-ssbd"},
    {"GraniteRapids-v1", "", "SapphireRapids-v1", intel, "Intel Xeon Processor (GraniteRapids)", "", 6, 173, 0, 0x20, 0x8000'0008, true,
     "+amx-fp16 +prefetchiti +mcdt-no"},
    {"Haswell-v1", "", "", intel, "Intel Core Processor (Haswell)", "", 6, 60, 4, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm syscall nx rdtscp lm lahf-lm abm xsaveopt arat"},
    {"Haswell-v2", "Haswell-noTSX", "Haswell-v1", intel, "Intel Core Processor (Haswell, no TSX)", "", 6, 60, 1, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Haswell-v3", "Haswell-IBRS", "Haswell-v2", intel, "Intel Core Processor (Haswell, IBRS)", "", 6, 60, 4, 0xd, 0x8000'0008, true,
     "+hle +rtm +spec-ctrl"},
    {"Haswell-v4", "Haswell-noTSX-IBRS", "Haswell-v3", intel, "Intel Core Processor (Haswell, no TSX, IBRS)", "", 6, 60, 1, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Icelake-Server-v1", "", "", intel, "Intel Xeon Processor (Icelake)", "", 6, 134, 0, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb avx512cd avx512bw avx512vl avx512vbmi umip "
     "pku avx512vbmi2 gfni vaes vpclmulqdq avx512vnni avx512bitalg avx512-vpopcntdq la57 spec-ctrl ssbd syscall nx pdpe1gb "
     "rdtscp lm lahf-lm abm 3dnowprefetch wbnoinvd xsaveopt xsavec xgetbv1 arat"},
    {"Icelake-Server-v2", "Icelake-Server-noTSX", "Icelake-Server-v1", intel, "Intel Xeon Processor (Icelake)", "[no TSX]", 6, 134, 0, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Icelake-Server-v3", "", "Icelake-Server-v2", intel, "Intel Xeon Processor (Icelake)", "", 6, 134, 0, 0xd, 0x8000'0008, true,
     "+arch-capabilities +ibrs-all +rdctl-no +mds-no +skip-l1dfl-vmentry +pschange-mc-no +taa-no"},
    {"Icelake-Server-v4", "", "Icelake-Server-v3", intel, "Intel Xeon Processor (Icelake)", "", 6, 106, 0, 0xd, 0x8000'0008, true,
     "+avx512ifma +sha-ni +rdpid +fsrm"},
    {"Icelake-Server-v5", "", "Icelake-Server-v4", intel, "Intel Xeon Processor (Icelake)", "[XSAVES]", 6, 106, 0, 0xd, 0x8000'0008, true,
     "+xsaves"},
    {"Icelake-Server-v6", "", "Icelake-Server-v5", intel, "Intel Xeon Processor (Icelake)", "[5-level EPT]", 6, 106, 0, 0xd, 0x8000'0008, true,
     ""},
    {"IvyBridge-v1", "", "", intel, "Intel Xeon E3-12xx v2 (Ivy Bridge)", "", 6, 58, 9, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 cx16 "
     "sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase smep erms syscall nx rdtscp lm "
     "lahf-lm xsaveopt arat"},
    {"IvyBridge-v2", "IvyBridge-IBRS", "IvyBridge-v1", intel, "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)", "", 6, 58, 9, 0xd, 0x8000'0008, true,
     "+spec-ctrl"},
    {"KnightsMill-v1", "", "", intel, "Intel Xeon Phi Processor (Knights Mill)", "", 6, 133, 0, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 ss pni pclmulqdq ssse3 "
     "fma cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep "
     "bmi2 erms avx512f rdseed adx avx512pf avx512er avx512cd avx512-vpopcntdq avx512-4vnniw avx512-4fmaps syscall nx "
     "pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt arat"},
    {"Nehalem-v1", "", "", intel, "Intel Core i7 9xx (Nehalem Class Core i7)", "", 6, 26, 3, 0xb, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni ssse3 cx16 sse4.1 "
     "sse4.2 popcnt hypervisor syscall nx lm lahf-lm"},
    {"Nehalem-v2", "Nehalem-IBRS", "Nehalem-v1", intel, "Intel Core i7 9xx (Nehalem Core i7, IBRS update)", "", 6, 26, 3, 0xb, 0x8000'0008, true,
     "+spec-ctrl"},
    {"Opteron_G1-v1", "", "", amd, "AMD Opteron 240 (Gen 1 Class Opteron)", "", 15, 6, 1, 0x5, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni hypervisor syscall "
     "nx lm"},
    {"Opteron_G2-v1", "", "", amd, "AMD Opteron 22xx (Gen 2 Class Opteron)", "", 15, 6, 1, 0x5, 0x8000'000a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 hypervisor "
     "syscall nx lm lahf-lm svm"},
    {"Opteron_G3-v1", "", "", amd, "AMD Opteron 23xx (Gen 3 Class Opteron)", "", 16, 2, 3, 0x5, 0x8000'000a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni monitor cx16 popcnt "
     "hypervisor syscall nx rdtscp lm lahf-lm svm abm sse4a misalignsse"},
    {"Opteron_G4-v1", "", "", amd, "AMD Opteron 62xx class CPU", "", 21, 1, 2, 0xd, 0x8000'001a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 cx16 "
     "sse4.1 sse4.2 popcnt aes xsave avx hypervisor syscall nx pdpe1gb rdtscp lm lahf-lm svm abm sse4a misalignsse "
     "3dnowprefetch xop fma4 npt nrip-save"},
    {"Opteron_G5-v1", "", "", amd, "AMD Opteron 63xx class CPU", "", 21, 2, 0, 0xd, 0x8000'001a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 sse4.1 sse4.2 popcnt aes xsave avx f16c hypervisor syscall nx pdpe1gb rdtscp lm lahf-lm svm abm sse4a misalignsse "
     "3dnowprefetch xop fma4 tbm npt nrip-save"},
    {"Penryn-v1", "", "", intel, "Intel Core 2 Duo P9xxx (Penryn Class Core 2)", "", 6, 23, 3, 0xa, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni ssse3 cx16 sse4.1 "
     "hypervisor syscall nx lm lahf-lm"},
    {"SandyBridge-v1", "", "", intel, "Intel Xeon E312xx (Sandy Bridge)", "", 6, 42, 1, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 cx16 "
     "sse4.1 sse4.2 x2apic popcnt tsc-deadline aes xsave avx hypervisor syscall nx rdtscp lm lahf-lm xsaveopt arat"},
    {"SandyBridge-v2", "SandyBridge-IBRS", "SandyBridge-v1", intel, "Intel Xeon E312xx (Sandy Bridge, IBRS update)", "", 6, 42, 1, 0xd, 0x8000'0008, true,
     "+spec-ctrl"},
    {"SapphireRapids-v1", "", "Icelake-Server-v6", intel, "Intel Xeon Processor (SapphireRapids)", "", 6, 143, 4, 0x20, 0x8000'0008, true,
     "+hle +rtm +bus-lock-detect +serialize +tsx-ldtrk +amx-bf16 +avx512-fp16 +amx-tile +amx-int8 +avx-vnni +avx512-bf16 +fzrm +fsrs +fsrc "
     "+xfd +movdiri +movdir64b +stibp +sbdr-ssdp-no +fbsdp-no +psdp-no"},
    {"SierraForest-v1", "", "", intel, "Intel Xeon Processor (SierraForest)", "", 6, 175, 0, 0x23, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 avx2 smep "
     "bmi2 erms invpcid rdseed adx smap clflushopt clwb sha-ni umip pku gfni vaes vpclmulqdq rdpid bus-lock-detect fsrm serialize "
     "spec-ctrl arch-capabilities ssbd avx-vnni cmpccxadd avx-ifma fsrs avx-vnni-int8 avx-ne-convert syscall nx pdpe1gb rdtscp lm "
     "lahf-lm abm 3dnowprefetch wbnoinvd xsaveopt xsavec xgetbv1 xsaves arat ibrs-all rdctl-no mds-no skip-l1dfl-vmentry "
     "pschange-mc-no taa-no sbdr-ssdp-no fbsdp-no psdp-no"},
    {"Skylake-Client-v1", "", "", intel, "Intel Core Processor (Skylake)", "", 6, 94, 3, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm rdseed adx smap syscall nx rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat"},
    {"Skylake-Client-v2", "Skylake-Client-IBRS", "Skylake-Client-v1", intel, "Intel Core Processor (Skylake, IBRS)", "", 6, 94, 3, 0xd, 0x8000'0008, true,
     "+spec-ctrl"},
    {"Skylake-Client-v3", "Skylake-Client-noTSX-IBRS", "Skylake-Client-v2", intel, "Intel Core Processor (Skylake, IBRS, no TSX)", "", 6, 94, 3, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Skylake-Client-v4", "", "Skylake-Client-v3", intel, "Intel Core Processor (Skylake, IBRS, no TSX)", "[IBRS, XSAVES, no TSX]", 6, 94, 3, 0xd, 0x8000'0008, true,
     "+xsaves"},
    {"Skylake-Server-v1", "", "", intel, "Intel Xeon Processor (Skylake)", "", 6, 85, 4, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 fma "
     "cx16 pcid sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave avx f16c rdrand hypervisor fsgsbase bmi1 hle avx2 "
     "smep bmi2 erms invpcid rtm avx512f avx512dq rdseed adx smap clflushopt clwb avx512cd avx512bw avx512vl pku syscall nx "
     "pdpe1gb rdtscp lm lahf-lm abm 3dnowprefetch xsaveopt xsavec xgetbv1 arat"},
    {"Skylake-Server-v2", "Skylake-Server-IBRS", "Skylake-Server-v1", intel, "Intel Xeon Processor (Skylake, IBRS)", "", 6, 85, 4, 0xd, 0x8000'0008, true,
     "+spec-ctrl -clflushopt"},
    {"Skylake-Server-v3", "Skylake-Server-noTSX-IBRS", "Skylake-Server-v2", intel, "Intel Xeon Processor (Skylake, IBRS, no TSX)", "", 6, 85, 4, 0xd, 0x8000'0008, true,
     "-hle -rtm"},
    {"Skylake-Server-v4", "", "Skylake-Server-v3", intel, "Intel Xeon Processor (Skylake, IBRS, no TSX)", "[IBRS, EPT switching, no TSX]", 6, 85, 4, 0xd, 0x8000'0008, true,
     ""},
    {"Skylake-Server-v5", "", "Skylake-Server-v4", intel, "Intel Xeon Processor (Skylake, IBRS, no TSX)", "[IBRS, XSAVES, EPT switching, no TSX]", 6, 85, 4, 0xd, 0x8000'0008, true,
     "+xsaves"},
    {"Snowridge-v1", "", "", intel, "Intel Atom Processor (SnowRidge)", "", 6, 134, 1, 0x1b, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq monitor "
     "ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave rdrand hypervisor fsgsbase smep erms mpx rdseed "
     "smap clflushopt clwb sha-ni umip gfni cldemote movdiri movdir64b spec-ctrl arch-capabilities core-capability ssbd "
     "syscall nx pdpe1gb rdtscp lm lahf-lm 3dnowprefetch xsaveopt xsavec xgetbv1 arat split-lock-detect"},
    {"Snowridge-v2", "", "Snowridge-v1", intel, "Intel Atom Processor (Snowridge, no MPX)", "", 6, 134, 1, 0x1b, 0x8000'0008, true,
     "-mpx"},
    {"Snowridge-v3", "", "Snowridge-v2", intel, "Intel Atom Processor (Snowridge, no MPX)", "[XSAVES, no MPX]", 6, 134, 1, 0x1b, 0x8000'0008, true,
     "+xsaves"},
    {"Snowridge-v4", "", "Snowridge-v3", intel, "Intel Atom Processor (Snowridge, no MPX)", "[no split lock detect, no core-capability]", 6, 134, 1, 0x1b, 0x8000'0008, true,
     "-core-capability -split-lock-detect"},
    {"Westmere-v1", "", "", intel, "Westmere E56xx/L56xx/X56xx (Nehalem-C)", "", 6, 44, 1, 0xb, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni pclmulqdq ssse3 cx16 "
     "sse4.1 sse4.2 popcnt aes hypervisor syscall nx lm lahf-lm arat"},
    {"Westmere-v2", "Westmere-IBRS", "Westmere-v1", intel, "Westmere E56xx/L56xx/X56xx (IBRS update)", "", 6, 44, 1, 0xb, 0x8000'0008, true,
     "+spec-ctrl"},
    {"athlon-v1", "", "", amd, "QEMU Virtual CPU version 2.5+", "", 6, 2, 3, 0x2, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse sse2 hypervisor mmxext 3dnowext 3dnow"},
    {"core2duo-v1", "", "", intel, "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz", "", 6, 15, 11, 0xa, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush acpi mmx fxsr sse sse2 ss pni monitor "
     "ssse3 cx16 hypervisor syscall nx lm lahf-lm"},
    {"coreduo-v1", "", "", intel, "Genuine Intel(R) CPU           T2600  @ 2.16GHz", "", 6, 14, 8, 0xa, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx fxsr sse sse2 ss pni monitor hypervisor "
     "nx"},
    {"kvm32-v1", "", "", intel, "Common 32-bit KVM processor", "", 15, 6, 1, 0x5, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni hypervisor"},
    {"kvm64-v1", "", "", intel, "Common KVM processor", "", 15, 6, 1, 0xd, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 hypervisor "
     "syscall nx lm"},
    {"n270-v1", "", "", intel, "Intel(R) Atom(TM) CPU N270   @ 1.60GHz", "", 6, 28, 2, 0xa, 0x8000'0008, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush acpi mmx fxsr sse sse2 ss pni monitor ssse3 "
     "movbe hypervisor nx lahf-lm"},
    {"pentium-v1", "", "", intel, "", "", 5, 4, 3, 0x1, 0x0, true,
     "fpu de pse tsc msr mce cx8 apic mmx hypervisor"},
    {"pentium2-v1", "", "", intel, "", "", 6, 5, 2, 0x2, 0x0, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr hypervisor"},
    {"pentium3-v1", "", "", intel, "", "", 6, 7, 3, 0x3, 0x0, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 mmx fxsr sse hypervisor"},
    {"phenom-v1", "", "", amd, "AMD Phenom(tm) 9550 Quad-Core Processor", "", 16, 2, 3, 0x5, 0x8000'001a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni monitor cx16 popcnt "
     "hypervisor syscall nx mmxext fxsr-opt pdpe1gb rdtscp lm 3dnowext 3dnow lahf-lm svm abm sse4a npt"},
    {"qemu32-v1", "", "", intel, "QEMU Virtual CPU version 2.5+", "", 6, 6, 3, 0x4, 0x8000'0004, true,
     "fpu de pse tsc msr pae mce cx8 apic sep pge cmov pat mmx fxsr sse sse2 pni hypervisor"},
    {"qemu64-v1", "", "", amd, "QEMU Virtual CPU version 2.5+", "", 15, 107, 1, 0xd, 0x8000'000a, true,
     "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 pni cx16 hypervisor "
     "syscall nx lm lahf-lm svm"},
};
// clang-format on

}  // namespace so_models
}  // namespace vmm::x86
