// C++ functions that translated code calls, one line each. X(name, class, leaves)
//   class: leaf (pure: arguments in, result and cc_out out, no fault), state (reads and changes State, may fault), heavy (devices,
//   locks). All have the signature `u64 name(GuestCpu&, u64, u64, u64)` in namespace vmm::tcg::x86::helper.
// A helper that fails calls Cpu::raise… before it has changed anything, and returns.
#pragma once

#include "accel/tcg/guest/guest_ops.h"
#include "accel/tcg/guest/x86/helpers_simd.h"
#include "accel/tcg/guest/x86/helpers_system.h"

// clang-format off
#define HELPERS_INTEGER(X)                                                                                                                 \
  X(raise, state)                                                                                                                          \
  X(raise_code, state) X(linear, state) X(check_ip, state) X(mul8, leaf) X(mul16, leaf) X(mul32, leaf) X(mul64, leaf) X(imul8, leaf)       \
      X(imul16, leaf) X(imul32, leaf) X(imul64, leaf) X(mulhi_u64, leaf) X(mulhi_s64, leaf) X(div8, state) X(div16, state) X(div32, state) \
          X(div64, state) X(idiv8, state) X(idiv16, state) X(idiv32, state) X(idiv64, state) X(rcl8, leaf) X(rcl16, leaf) X(rcl32, leaf)   \
              X(rcl64, leaf) X(rcr8, leaf) X(rcr16, leaf) X(rcr32, leaf) X(rcr64, leaf) X(shld16, leaf) X(shld32, leaf) X(shld64, leaf)    \
                  X(shrd16, leaf) X(shrd32, leaf) X(shrd64, leaf) X(bt_flags, leaf) X(bsf16, leaf) X(bsf32, leaf) X(bsf64, leaf)           \
                      X(bsr16, leaf) X(bsr32, leaf) X(bsr64, leaf) X(tzcnt16, leaf) X(tzcnt32, leaf) X(tzcnt64, leaf) X(lzcnt16, leaf)     \
                          X(lzcnt32, leaf) X(lzcnt64, leaf) X(popcnt16, leaf) X(popcnt32, leaf) X(popcnt64, leaf) X(andn32, leaf)          \
                              X(andn64, leaf) X(blsi32, leaf) X(blsi64, leaf) X(blsr32, leaf) X(blsr64, leaf) X(blsmsk32, leaf)            \
                                  X(blsmsk64, leaf) X(bextr32, leaf) X(bextr64, leaf) X(bzhi32, leaf) X(bzhi64, leaf) X(pdep, leaf)        \
                                      X(pext, leaf) X(adcx32, leaf) X(adcx64, leaf) X(adox32, leaf) X(adox64, leaf) X(crc32_8, leaf)       \
                                          X(crc32_16, leaf) X(crc32_32, leaf) X(crc32_64, leaf) X(daa, leaf) X(das, leaf) X(aaa, leaf)     \
                                              X(aas, leaf) X(aam, state) X(aad, leaf) X(rdrand, leaf) X(rdseed, leaf)                      \
                                                  X(string_step, state) X(enter, state) X(pusha, state) X(popa, state) X(pushf, state)     \
                                                      X(popf, state) X(cmpxchg16b, state) X(bound, state)
// clang-format on

#define HELPERS(X) HELPERS_INTEGER(X) HELPERS_SYSTEM(X) HELPERS_SIMD(X)

namespace vmm::tcg::x86 {

enum class HelperClass : u8 { leaf, state, heavy };
enum class HelperId : u16 {
#define X(name, cls) name,
  HELPERS(X)
#undef X
      count
};
namespace helper {
#define X(name, cls) u64 name(GuestCpu&, u64, u64, u64);
HELPERS(X)
#undef X
}  // namespace helper
inline constexpr HelperClass helper_classes[] = {
#define X(name, cls) HelperClass::cls,
    HELPERS(X)
#undef X
};
extern const Helper helper_table[];
const char* helper_name(u16 id);

}  // namespace vmm::tcg::x86
