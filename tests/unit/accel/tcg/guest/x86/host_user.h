// The host CPU as the judge of user code in 64, 32 and 16 bits: this process enters any user state by the return from a signal and is
// called back by the first exception. Code and data lie at the same low addresses as in the guest; based and 16-bit segments are those of
// an LDT. x86-64 Linux hosts with FSGSBASE only.
// Sources: sigreturn(2), modify_ldt(2), prctl(2) (PR_SET_SYSCALL_USER_DISPATCH), Linux arch/x86/include/uapi/asm/sigcontext.h.
#pragma once

#include <span>
#include <string_view>

#include "src/x86/state.h"

namespace vmm::test {

// A descriptor of the LDT, as modify_ldt(2) takes it.
struct LdtEntry {
  u32 base = 0, limit = 0;
  u8 contents = 0;  // 0 data, 1 data that expands downwards, 2 code, 3 conforming code
  bool big = false, pages = false, read_or_execute_only = false, absent = false;
};

class HostUser {
 public:
  struct End {
    int vector = -1;  // −1: neither ended in time nor can be compared (a system call)
    u32 error = 0;
    u64 cr2 = 0;
  };
  // Null, with a reason in `why`, where this host cannot be asked. `code` and `data` are page-aligned places below 1 MiB; all bytes of
  // `code` may be executed and written, those of `data` read and written.
  static HostUser* get(u64 code, u64 code_bytes, u64 data, u64 data_bytes, std::span<const LdtEntry> ldt, std::string& why);
  u8* code() const { return code_; }
  u8* data() const { return data_; }
  // From `state` (registers, flags, selectors, bases of FS and GS in 64-bit mode, x87, vectors) to the first exception; what was then.
  End run(vmm::x86::State& state);

 private:
  u8 *code_ = nullptr, *data_ = nullptr;
};

}  // namespace vmm::test
