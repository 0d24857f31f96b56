// User code at level 3 in 64, 32 and 16 bits by the interpreter, by E1 and by the host CPU, from the same registers, segments and memory to
// the first exception. The guest's tables are laid out as Linux lays out its own, so that what a program can see of them is equal.
// Sources: SDM 3A §3.4.5, §6.12–6.14; Linux arch/x86/include/asm/segment.h (selectors).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "tests/unit/accel/tcg/guest/x86/differential.h"
#include "tests/unit/accel/tcg/guest/x86/host_user.h"

namespace vmm::tcg::differential {

// legacy: without EFER.LMA. based: segments of the LDT, most with bases and limits.
enum class UserMode : u8 { code64, flat32, legacy32, based32, code16, legacy16, count };

struct UserCase {
  u64 seed = 0;
  UserMode mode = UserMode::code64;
  u64 at = 0;  // linear address of the code
  std::vector<u8> code;
  unsigned bits() const { return mode == UserMode::code64 ? 64 : mode <= UserMode::based32 ? 32 : 16; }
};

class Users {
 public:
  // `host` may be null: then the engines are compared with one another alone.
  explicit Users(test::HostUser* host);
  static test::HostUser* host(std::string& why);

  UserCase make(u64 seed) const;
  // Empty: no difference. What differs is tried again with ever shorter beginnings, and the shortest is told.
  std::string run(const UserCase& c);

  u64 cases = 0, on_host = 0, endless_cases = 0, unknown_to_guest = 0, not_for_host = 0, other_memory = 0, system_calls = 0, quirks = 0;

  static constexpr u64 code_at = 0x30000, code_bytes = 0x2000, data_at = 0x40000, data_bytes = 0x4000;

 private:
  std::string once(const UserCase& c);
  void lay_out(X86Bench& b);
  State start(const UserCase& c, Numbers& n);
  void place(X86Bench& b, const UserCase& c, const State& from);
  bool comparable(const UserCase& c, const State& guest, int vector) const;
  std::string against_host(const UserCase& c, const State& from);

  std::vector<Choice> rows_;
  test::HostUser* host_;
  Ticker ticker_;
  X86Bench interp_, e1_;
  std::vector<u8> pool_, data_;
};

}  // namespace vmm::tcg::differential
